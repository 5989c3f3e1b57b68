# A live bash as a context: bash itself speaks docs/runner-protocol.md. The runner relies on the order of execd's keys,
# which that page promises, so nothing has to parse JSON. docs/bash.md says what user code can see of the runner.
#
# User code must neither see the runner's own commands nor change what they do. Therefore:
# - Between two runs the shell has none of the user's options, traps, prompts and TMOUT. `__sandlot_quiet` and `__sandlot_turn`
#   put them aside after a run, and `__sandlot_begin` restores them before the next run.
# - The runner's commands go through `builtin`, because code may define a function of any name. They set no variable that
#   code may have made read-only: all their names begin with `__sandlot_`.
# - What the shell would print about the runner's commands (`set -x`, a DEBUG trap) goes to /dev/null.
#
# The descriptors between two runs: 0 is a pipe from the shell to itself, 60 is /dev/null, 62 is the channel. During a run,
# 0 and 62 are copies of 60. bash keeps the originals as 61 and 63, the next numbers above that of the replacement. Without
# 60 bash would take 10 and 11, which code may use itself. No program inherits 60 to 63: a copy of a close-on-exec
# descriptor is close-on-exec as well, unless it is 0, 1 or 2.

[[ ${__SANDLOT_STDERR-} ]] && exec 2>&"$__SANDLOT_STDERR" {__SANDLOT_STDERR}>&-
[[ ${SANDLOT_CHANNEL_FD:-62} == 62 ]] || exec 62<&"$SANDLOT_CHANNEL_FD" {SANDLOT_CHANNEL_FD}<&-
unset __SANDLOT_STDERR SANDLOT_CHANNEL_FD SANDLOT_PRELOAD HISTFILE
set +o history +m
shopt -s execfail # an interactive shell survives a failed exec, but what it does at a prompt counts as a script
__sandlot_pid=$BASHPID __sandlot_bash=$BASH __sandlot_directory=${BASH_SOURCE[0]%/*} __sandlot_quote="'"
__sandlot_run='' __sandlot_count=0
# The user's values, while the runner works.
__sandlot_status=0 __sandlot_options='' __sandlot_traps='' __sandlot_on_exit=''
__sandlot_ps0='' __sandlot_ps1='\s-\v\$ ' __sandlot_ps2='> ' __sandlot_ps4='+ ' __sandlot_tmout=${TMOUT-}
__sandlot_left='' # the status, if the code has called `exit`
__sandlot_leaving='' __sandlot_int_trap='' __sandlot_tail_status='' __sandlot_stderr='' __sandlot_anew=''

# Open /dev/null as 60, close-on-exec. Only a copy that bash keeps for itself is close-on-exec: here 59, of 57.
__sandlot_open_null() {
    [[ ! /dev/fd/60 -ef /dev/null ]] || builtin return 0
    exec 57</dev/null 58<&57
    { exec 60<&59; } 57<&58
    exec 57<&- 58<&-
}

__sandlot_say() { builtin printf '%s\n' "$1" >&62; }

# Set a variable to the text of a JSON string. $'…' knows every escape of JSON.
__sandlot_text() { builtin eval "$1=\$'${2//$__sandlot_quote/\\$__sandlot_quote}'"; }

__sandlot_set() { builtin return "$1"; }

__sandlot_done() { # arguments: status, exit code
    builtin set -- "{\"type\":\"done\",\"id\":$__sandlot_run,\"status\":\"$1\",\"exit_code\":$2,\"count\":$__sandlot_count}"
    __sandlot_run='' __sandlot_left=''
    __sandlot_say "$1"
}

# Fail if execd has closed the channel. The shell then has to exit.
__sandlot_read() { builtin read -r -u 62 __sandlot_line; }

__sandlot_start() {
    __sandlot_raw=${__sandlot_line#*\"cwd\":\"} __sandlot_raw=${__sandlot_raw%%\",\"env\":*}
    __sandlot_text __sandlot_cwd "$__sandlot_raw"
    if builtin cd -- "$__sandlot_cwd"; then
        __sandlot_say '{"type":"started"}'
        builtin return
    fi
    __sandlot_problem='cannot be entered: permission denied'
    [[ -d $__sandlot_cwd ]] || __sandlot_problem='is not a directory'
    [[ -e $__sandlot_cwd || -L $__sandlot_cwd ]] || __sandlot_problem='does not exist'
    __sandlot_say "{\"type\":\"failed\",\"message\":\"the working directory $__sandlot_raw $__sandlot_problem\"}"
}

# Answer questions until there is code to run.
__sandlot_wait() {
    builtin local LC_ALL=C # count bytes: in UTF-8 the quotes of a long script would take minutes
    while __sandlot_read; do
        __sandlot_id=${__sandlot_line#*\"id\":} __sandlot_id=${__sandlot_id%%[,\}]*}
        case $__sandlot_line in
            '{"op":"run",'*)
                __sandlot_run=$__sandlot_id
                __sandlot_code=${__sandlot_line#*\"code\":\"}
                __sandlot_text __sandlot_code "${__sandlot_code%\",\"input\":*}"
                builtin return
                ;;
            '{"op":"start",'*) __sandlot_start ;;
            '{"op":"complete",'* | '{"op":"inspect",'*)
                __sandlot_say "{\"type\":\"refused\",\"id\":$__sandlot_id,\"message\":\"bash does not answer that\"}"
                ;;
        esac
    done
    builtin trap - EXIT
    builtin exit 0
}

# Put the user's options aside: they must neither print what the runner does nor end it. In POSIX mode no function precedes
# the builtin `unset`. So functions named `builtin` and `exec` can be removed, on which everything else relies (a
# redirection of `builtin exec` does not last).
__sandlot_quiet() { # arguments: $?, $-, $BASHOPTS
    if [[ ! $__sandlot_run ]]; then
        builtin return 0
    elif [[ -o posix ]]; then
        __sandlot_posix='-o posix'
        unset -f builtin exec
    else
        __sandlot_posix='' POSIXLY_CORRECT=1
        unset -f builtin exec
        unset POSIXLY_CORRECT
        # The POSIX mode has changed these two.
        [[ :$3: == *:expand_aliases:* ]] || builtin shopt -u expand_aliases
        [[ :$3: == *:inherit_errexit:* ]] || builtin shopt -u inherit_errexit
    fi
    # A subshell that gets SIGINT right after its fork still has the prompt and the traps of the shell. It would become a
    # second runner on the same channel, while the first waits for it.
    [[ ${BASHPID-$__sandlot_pid} == "$__sandlot_pid" ]] || builtin exit 130
    # The last three need not be restored: nobody types.
    builtin set +aefktuvxCET +o posix +o vi +o emacs +o ignoreeof
    builtin enable alias cd declare eval exit export kill printf read return set shopt trap unalias unset
    builtin declare -g +x __sandlot_posix # `set -a` exports variables
    [[ ! $__sandlot_left ]] || builtin return 0 # `exit` has put the options aside already
    __sandlot_options="-${2//[^aefktuvxCET]/} $__sandlot_posix"
    __sandlot_status=${__sandlot_tail_status:-$1} __sandlot_tail_status=''
}

# Put the user's traps aside. The prompt has written them into the shell's pipe to itself.
__sandlot_put_traps_aside() {
    builtin trap '' INT # otherwise it would break off a message
    builtin printf '\0' >&0
    builtin read -r -d '' -u 0 __sandlot_traps
    [[ ! $__sandlot_int_trap ]] || __sandlot_traps+=$'\n'$__sandlot_int_trap
    __sandlot_int_trap=''
}

# Put the user's prompts and time limit aside. Fail if code has made one of them read-only.
__sandlot_put_prompts_aside() {
    __sandlot_ps0=${PS0-} __sandlot_ps1=${PS1-} __sandlot_ps2=${PS2-} __sandlot_ps4=${PS4-} __sandlot_tmout=${TMOUT-}
    builtin unset PROMPT_COMMAND && builtin declare -g PROMPT_COMMAND="$__sandlot_prompt" PS0='' PS1='' PS2='' &&
        __sandlot_put_time_limit_aside
}

# Replace TMOUT by three years. bash reads it at its next prompt, and it applies while the runner waits for code and
# executes it. (Unsetting it would leave a limit in force that was set before an exec.)
__sandlot_put_time_limit_aside() { [[ ! $__sandlot_tmout ]] || builtin declare -g TMOUT=100000000; }

__sandlot_end_run() { # argument: the status of what SIGINT has stopped
    [[ $__sandlot_run ]] || builtin return 0
    __sandlot_put_traps_aside
    [[ ! $__sandlot_left ]] || __sandlot_status=$__sandlot_left
    if __sandlot_put_prompts_aside; then __sandlot_tell_end "$@"; else __sandlot_anew=1; fi
}

__sandlot_tell_end() {
    [[ $__sandlot_run ]] || builtin return 0
    if ((__sandlot_status == 0)); then
        __sandlot_done ok 0
    elif [[ ${1-} == 130 && ! $__sandlot_left ]]; then
        __sandlot_done interrupted 130
    else
        __sandlot_done error "$__sandlot_status"
    fi
}

# Wait for code, and prepare everything for it.
__sandlot_turn() {
    if [[ $__sandlot_run ]]; then # SIGINT or `exit` has ended the code
        __sandlot_end_run "$__sandlot_status"
        __sandlot_code=''
        [[ ! $__sandlot_anew && ! $__sandlot_tmout ]] || builtin return 0 # TMOUT applies until the next prompt
    fi
    while builtin read -t 0 -u 0; do builtin read -r -u 0 __sandlot_line; done
    __sandlot_open_null
    while [[ x ]]; do
        __sandlot_wait
        ((++__sandlot_count))
        builtin trap - INT
        # An interrupt that came before this moment was not a signal to the shell, but it is a message.
        builtin read -t 0 -u 62 || builtin break
        builtin trap '' INT
        __sandlot_read
        __sandlot_done interrupted 130
    done
    __sandlot_wrap
}

# Add to the code what restores the user's state, on a line that does not count.
#
# An error of an expansion (`set -u`, `${x:?}`) ends one command in an interactive shell, and not the whole script as in
# other shells. It must end the run, so code in which it can happen becomes one command.
# With an ERR trap or `set -e`, the failure of the last command must not count again as a failure of the runner's `eval`.
__sandlot_wrap() {
    builtin local LC_ALL=C
    # A function of that name could not be defined.
    [[ $__sandlot_code != *'trap()'* && $__sandlot_code != *'trap ()'* ]] || builtin unalias trap
    builtin set -- '{ \__sandlot_begin && [[ x ]]; } >/dev/null 2>"/dev/null${__sandlot_run:0:$((LINENO=0))}"' "$__sandlot_code" ''
    if [[ "$__sandlot_traps $2" == *ERR* || $__sandlot_options == -*e* ]] && [[ $2 != *'<<'* && $2 != *[\\\|\&] ]]; then
        builtin set -- "$1" "$2" $'\n''{ \__sandlot_tail "$?"; } >/dev/null 2>&1'
    fi
    if [[ $__sandlot_options == -*u* || $2 == *nounset* || $2 == *':?'* || $2 == *'set -u'* ||
        $2 == *'set -'?u* || $2 == *'set -'??u* || $2 == *'set -'???u* ]] && [[ $2 != *\\ ]]; then
        __sandlot_code="$1"$'\n{ '"$2$3"$'\n}'
    else
        __sandlot_code="$1"$'\n'"$2$3"
    fi
}

# Restore the user's state.
__sandlot_begin() {
    PS0=$__sandlot_ps0 PS1=$__sandlot_ps1 PS2=$__sandlot_ps2 PS4=$__sandlot_ps4
    [[ ! $__sandlot_tmout ]] || TMOUT=$__sandlot_tmout
    builtin trap "$__sandlot_exit_trap" EXIT
    if [[ $__sandlot_traps ]] && builtin unalias trap; then # the text means the builtin
        __sandlot_traps+=$'\n''builtin alias trap="$__sandlot_trap_alias"'
    fi
    builtin eval "builtin set $__sandlot_options"
    builtin eval "$__sandlot_traps"
    builtin return "$__sandlot_status"
}

__sandlot_tail() {
    __sandlot_tail_status=$1
    builtin declare -g +x __sandlot_tail_status # `set -a` exports variables
}

# -- exit: it ends the run, not the shell

# Act as the builtin in a subshell. In the shell itself, leave the code as SIGINT does, so that nothing is lost.
exit() {
    if { __sandlot_takes_exit "$?" "$-" "$BASHOPTS" "$@"; } 2>/dev/null; then
        builtin eval "$__sandlot_at_exit"
        __sandlot_throw
    fi
    builtin exit "$@"
}

__sandlot_takes_exit() { # arguments: $?, $-, $BASHOPTS, arguments of exit
    if [[ ${__sandlot_pid-} != "${BASHPID-${__sandlot_pid-}}" ]]; then
        (($# > 3)) || builtin exit "$1"
        builtin return 1
    fi
    [[ $# == 3 || ($# == 4 && $4 == ?([-+])+([0-9])) ]] || builtin return 1 # an error, which the builtin explains
    __sandlot_quiet "$@"
    builtin declare -g +x __sandlot_left=$((${4-$1} & 255))
    __sandlot_take_exit_trap
    __sandlot_int_trap=${__sandlot_int_trap:-$(builtin trap -p INT)}
    [[ ! $__sandlot_leaving ]] || __sandlot_restart
}

# Set the code of the user's EXIT trap, and remove the trap. $? in the code is the status.
__sandlot_take_exit_trap() {
    __sandlot_at_exit=''
    if [[ $__sandlot_on_exit ]]; then
        builtin eval "builtin set ${__sandlot_on_exit#trap}" # arguments: -- CODE EXIT
        __sandlot_at_exit="{ __sandlot_set $__sandlot_left; } 2>/dev/null"$'\n'"$1"
    fi
    __sandlot_on_exit=''
}

__sandlot_throw() {
    builtin trap - INT
    exec {__sandlot_stderr}>&2 2>/dev/null # the shell prints an empty line for SIGINT
    builtin kill -INT "$__sandlot_pid"
}

# Do what a group of commands with redirections cannot.
__sandlot_settle() {
    [[ ! $__sandlot_anew ]] || __sandlot_begin_anew "$@"
    [[ $__sandlot_stderr ]] || builtin return 0
    # Otherwise the command that called `exit` had a stderr of its own.
    [[ ! /dev/fd/2 -ef /dev/null ]] || exec 2>&"$__sandlot_stderr"
    exec {__sandlot_stderr}>&-
    __sandlot_stderr=''
}

# -- the end of the shell: `set -e`, `builtin exit`. A new shell takes its place in the same process.

# The EXIT trap of the shell. It saves the state before the user's own trap, which may call `exit`.
__sandlot_exit_trap='{ \__sandlot_leave "$?" "$-" "$BASHOPTS" "$(builtin trap -p)" "$@"; } >/dev/null 2>&1
\builtin eval "$__sandlot_at_exit"
\__sandlot_restart'

__sandlot_leave() { # arguments: $?, $-, $BASHOPTS, traps, arguments of the shell
    __sandlot_quiet "$@"
    __sandlot_traps=$4 __sandlot_left=$1 __sandlot_leaving=1
    builtin trap : INT
    __sandlot_ps0=${PS0-} __sandlot_ps1=${PS1-} __sandlot_ps2=${PS2-} __sandlot_ps4=${PS4-} __sandlot_tmout=${TMOUT-}
    __sandlot_take_exit_trap
    __sandlot_state=$(builtin . "$__sandlot_directory/state.bash" - "${@:5}")
}

# Start anew if a variable that the runner needs has become read-only.
__sandlot_begin_anew() {
    __sandlot_left=$__sandlot_status
    builtin trap - INT
    __sandlot_traps=$(builtin trap -p)$'\n'$__sandlot_traps
    __sandlot_state=$(builtin . "$__sandlot_directory/state.bash" - "$@")
    __sandlot_restart
}

__sandlot_restart() {
    if [[ /dev/fd/62 -ef /dev/null ]]; then
        # Some errors leave the redirections of the code in place. The way through 0 makes the channel inheritable.
        exec 0<&63 56<&0 0<&61
        builtin export SANDLOT_CHANNEL_FD=56
    fi
    [[ -p /dev/fd/0 ]] || exec {__sandlot_self}<> <(:) 0<&"$__sandlot_self" {__sandlot_self}<&-
    exec {__SANDLOT_STDERR}>&2 59<<<"$__sandlot_state"$'\n'"__sandlot_status=$__sandlot_left"
    builtin export __SANDLOT_STDERR __SANDLOT_STATE=59
    exec "$__sandlot_bash" --noediting --rcfile "$__sandlot_directory/runner.bash" -i 2>/dev/null
    builtin trap - EXIT # no bash is left
    builtin exit "$__sandlot_left"
}

# The same with an EXIT trap that code sets: it must not replace the runner's.
__sandlot_trap_alias='. "$__sandlot_directory/trap.bash" trap'
alias trap="$__sandlot_trap_alias"

# What the shell does at each prompt. The code stands here and not in a function, where `declare` would make locals.
# It is one line, because a syntax error in the code would disturb the reading of a second line.
__sandlot_look='\__sandlot_quiet "$?" "$-" "$BASHOPTS"; [[ ! $__sandlot_run ]] || { \builtin trap -p DEBUG ERR INT >&0; \builtin trap - DEBUG ERR; }'
__sandlot_prompt="{ $__sandlot_look; \\__sandlot_turn; } >/dev/null 2>&1; \\__sandlot_settle \"\$@\""
__sandlot_prompt+='; \builtin eval "$__sandlot_code" 0<&60 62<&60'
__sandlot_prompt+="; { $__sandlot_look; \\__sandlot_end_run; \\builtin echo >&0; } >/dev/null 2>&1; \\__sandlot_settle \"\$@\""
PS0='' PS1='' PS2='' PS4='+ ' PROMPT_COMMAND=$__sandlot_prompt
if [[ ${__SANDLOT_STATE-} ]]; then
    unset __SANDLOT_STATE
    builtin eval "$(</dev/fd/59)" >/dev/null 2>&1
    exec 59<&-
    __sandlot_tell_end
else
    __sandlot_say '{"type":"ready","protocol":1}'
fi
__sandlot_put_time_limit_aside
