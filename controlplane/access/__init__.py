"""Access control: keys with scopes, owners and quotas, the bound on failed attempts, and the audit log."""
