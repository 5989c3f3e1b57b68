"""What a stream may be opened for: the operation that each message stands for."""

from __future__ import annotations

from controlplane.access.scopes import Needs
from controlplane.api.activity.activity import ActivityReading
from controlplane.api.activity.operations import ACTIVITY
from controlplane.api.edge.operation import ON_STREAM, Endpoint, Operation
from controlplane.api.execd.code import Codes
from controlplane.api.execd.commands import Commands
from controlplane.api.execd.contexts import LiveContexts
from controlplane.api.execd.operations import EXECD
from controlplane.api.execd.resume import Resumption
from controlplane.api.execd.terminals import Terminals
from controlplane.api.execd.transfer import Transfers
from controlplane.api.stream import messages as says

# No change: a client sends one whenever a window gets another size.
RESIZE = Operation("pty.resize", ON_STREAM, "", None, Needs.USE, is_change=False)

LANGUAGES = Operation("context.languages", ON_STREAM, "", None, Needs.READ, is_change=False)

# By the endpoints that do the same over HTTP.
_ENDPOINTS: dict[type[says.AnyOperation], Endpoint] = {
    says.Command: Commands.run,
    says.Run: Codes.run,
    says.Resume: Resumption.resume,
    says.Signal: Commands.interrupt,
    says.Input: Codes.answer_input,
    says.OpenContext: Codes.create_context,
    says.ListContexts: Codes.list_contexts,
    says.CloseContext: Codes.delete_context,
    says.InterruptContext: Codes.interrupt,
    says.RestartContext: LiveContexts.restart,
    says.ForkContext: LiveContexts.fork,
    says.Complete: LiveContexts.complete,
    says.Inspect: LiveContexts.inspect,
    says.OpenPty: Terminals.create,
    says.AttachPty: Terminals.attach,
    says.ListPtys: Terminals.list,
    says.ClosePty: Terminals.delete,
    says.ReadFile: Transfers.download,
    says.WriteFile: Transfers.upload,
    says.WatchActivity: ActivityReading.read,
}
_ROWS = {operation.endpoint: operation for operation in (*EXECD, *ACTIVITY)}

OPENED: dict[type[says.AnyOperation], Operation] = {
    says.ResizePty: RESIZE,
    says.ListLanguages: LANGUAGES,
    **{message: _ROWS[endpoint] for message, endpoint in _ENDPOINTS.items()},
}
