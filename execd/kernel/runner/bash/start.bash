# Become an interactive bash. Only an interactive bash leaves a command on SIGINT and goes on with the next, as people
# expect. Its PROMPT_COMMAND runs the code, because bash prints nothing about jobs there. It reads its commands from a pipe
# to itself: each run puts an empty line there, after which bash prompts again.
exec {__sandlot_self}<> <(:)
exec {__sandlot_stderr}>&2
export __SANDLOT_STDERR=$__sandlot_stderr
# The first run must not show bash's complaint that it has no terminal.
exec bash --noediting --rcfile "${BASH_SOURCE[0]%/*}/runner.bash" -i <&"$__sandlot_self" {__sandlot_self}<&- 2>/dev/null
