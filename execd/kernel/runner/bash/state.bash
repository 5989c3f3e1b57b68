# Print commands that give another shell the state of this one: variables, functions, aliases, options, traps. bash can
# report nearly its whole state. Jobs are an exception: they go on as processes, and are jobs no more.
# The arguments from the second on are the positional parameters. Run this in a subshell: it restores nothing.

builtin mapfile -t __sandlot_names < <(builtin compgen -v)
builtin shopt -p
builtin shopt -po
for __sandlot_name in "${__sandlot_names[@]}"; do
    case $__sandlot_name in
        __sandlot_* | BASH* | COMP_* | EPOCH* | FUNCNAME | GROUPS | DIRSTACK | PIPESTATUS | *RANDOM | LINENO | HIST*) ;;
        EUID | UID | PPID | SHELLOPTS | _ | PROMPT_COMMAND | PS[0124] | TMOUT) ;;
        *) builtin declare -p "$__sandlot_name" ;;
    esac
done
builtin mapfile -t __sandlot_names < <(builtin compgen -A function)
for __sandlot_name in "${__sandlot_names[@]}"; do
    [[ $__sandlot_name == @(__sandlot_*|exit) ]] || builtin declare -fp "$__sandlot_name"
done
for __sandlot_name in count run options traps on_exit int_trap ps0 ps1 ps2 ps4 tmout; do
    __sandlot_name=__sandlot_$__sandlot_name
    builtin printf '%s=%q\n' "$__sandlot_name" "${!__sandlot_name}"
done
builtin complete -p
builtin printf 'set --'
(($# == 1)) || builtin printf ' %q' "${@:2}"
builtin printf '\n'
builtin alias -p
