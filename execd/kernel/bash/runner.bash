# A live bash as a context: docs/runner-protocol.md, spoken by bash itself. It relies on the order of execd's keys, which
# that page promises, so nothing has to parse JSON.

exec 2>&"$__SANDLOT_STDERR" {__SANDLOT_STDERR}>&-
((SANDLOT_CHANNEL_FD == 62)) || exec 62<&"$SANDLOT_CHANNEL_FD" {SANDLOT_CHANNEL_FD}<&-
unset __SANDLOT_STDERR SANDLOT_CHANNEL_FD SANDLOT_PRELOAD HISTFILE
set +o history +m
PS1='' PS2='' PS4='+ '
__sandlot_run='' __sandlot_last=0 __sandlot_flags='' __sandlot_count=0

__sandlot_say() { printf '%s\n' "$1" >&62; }

# Set a variable to the text of a JSON string. $'…' knows every escape that JSON has.
__sandlot_text() { eval "$1=\$'${2//\'/\\\'}'"; }

__sandlot_done() { # status, exit code
    local fields="\"id\":$__sandlot_run,\"status\":\"$1\",\"exit_code\":$2,\"count\":$__sandlot_count"
    __sandlot_run='' __sandlot_last=$2
    __sandlot_say "{\"type\":\"done\",$fields}"
}

__sandlot_read() { IFS= read -r -u 62 __sandlot_line || exit 0; }

__sandlot_start() {
    local cwd=${__sandlot_line#*\"cwd\":\"}
    __sandlot_text cwd "${cwd%%\",\"env\":*}"
    if cd -- "$cwd" 2>/dev/null; then
        __sandlot_say '{"type":"started"}'
    else
        __sandlot_say '{"type":"failed","message":"cannot enter the working directory"}'
    fi
}

# Answer what is asked, until there is code to be run.
__sandlot_wait() {
    local id
    while __sandlot_read; do
        id=${__sandlot_line#*\"id\":} id=${id%%[,\}]*}
        case $__sandlot_line in
            '{"op":"run",'*)
                __sandlot_run=$id
                __sandlot_code=${__sandlot_line#*\"code\":\"}
                __sandlot_text __sandlot_code "${__sandlot_code%\",\"input\":*}"
                return
                ;;
            '{"op":"start",'*) __sandlot_start ;;
            '{"op":"complete",'* | '{"op":"inspect",'*)
                __sandlot_say "{\"type\":\"refused\",\"id\":$id,\"message\":\"bash does not answer that\"}"
                ;;
        esac
    done
}

# The user's options must neither show what we do nor end us.
__sandlot_quiet() { { __sandlot_flags=${-//[^efuxv]/}; set +efuxv; } 2>/dev/null; }

__sandlot_set() { return "$1"; }

__sandlot_turn() {
    local status=$?
    [[ $__sandlot_run ]] && __sandlot_quiet
    trap '' INT # or it would tear a message apart
    echo "PROMPT_COMMAND=\$__sandlot_prompt" >&0 # code may have set it to something else
    if [[ $__sandlot_run ]]; then # SIGINT, or an error that only ends a command, brought us here
        if ((status == 130)); then __sandlot_done interrupted 130; else __sandlot_done error "$status"; fi
    fi
    while :; do
        __sandlot_wait
        ((++__sandlot_count))
        trap - INT
        # An interruption that came before this moment was no signal to us, but it is a message.
        read -t 0 -u 62 || break
        trap '' INT
        __sandlot_read
        __sandlot_done interrupted 130
    done
    [[ $__sandlot_flags ]] && __sandlot_code="set -$__sandlot_flags"$'\n'"$__sandlot_code"
    __sandlot_set "$__sandlot_last"
}

__sandlot_end() {
    local status=$?
    __sandlot_quiet
    if ((status)); then __sandlot_done error "$status"; else __sandlot_done ok 0; fi
}

# The code stands here and in no function: there, `declare` would make locals.
__sandlot_prompt='__sandlot_turn; eval "$__sandlot_code" </dev/null 62<&-; { __sandlot_end; } 2>/dev/null'
PROMPT_COMMAND=$__sandlot_prompt
__sandlot_say '{"type":"ready","protocol":1}'
