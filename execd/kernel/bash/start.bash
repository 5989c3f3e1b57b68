# Becomes an interactive bash, because only that one leaves a command on SIGINT and goes on with the next, as people
# know it. Code is run by its PROMPT_COMMAND, where it keeps quiet about jobs. What it reads as its commands is a pipe to
# itself: each turn of runner.bash puts a line there, after which comes the next prompt.
exec {__sandlot_self}<> <(:)
echo >&"$__sandlot_self"
exec {__sandlot_stderr}>&2
export __SANDLOT_STDERR=$__sandlot_stderr
# Its complaint that it has no terminal is not for the first run to show.
exec bash --noediting --rcfile "${BASH_SOURCE[0]%/*}/runner.bash" -i <&"$__sandlot_self" {__sandlot_self}<&- 2>/dev/null
