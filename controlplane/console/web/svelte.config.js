// `tree`: elements are made one at a time, never from a string of HTML. The pages run under Trusted Types, which forbid
// such strings, so that no name or output of a sandbox can ever become markup.
export default { compilerOptions: { runes: true, fragments: 'tree' } };
