# `trap` for user code. The runner needs the shell's EXIT trap for itself. It keeps the user's trap as text, which replaces
# the runner's only while the builtin works. A subshell, or a shell that is about to end, has nothing to keep.
#
# This is a sourced file, because a function would have ERR and DEBUG traps of its own. A sourced file still hides DEBUG,
# so "none" has to be set as "ignored", and its end fires RETURN, but not from within a RETURN trap.

builtin shift # a word of the alias: without arguments the file would get those of the code
if [[ ${__sandlot_pid-} != "$BASHPID" || ${__sandlot_leaving-} ]]; then
    # A subshell has no traps, but lists those of its parent, for `saved=$(trap -p EXIT)`.
    if [[ ! ${__sandlot_exit_trap-} || ($# != 0 && $1 != -p) ]]; then
        builtin trap "$@"
        builtin return
    fi
    __sandlot_ours=$(builtin trap -p EXIT) __sandlot_list=$(builtin trap "$@")
    if [[ $__sandlot_ours == *__sandlot_leave* ]]; then
        __sandlot_list=${__sandlot_list/"$__sandlot_ours"/"$__sandlot_on_exit"} __sandlot_list=${__sandlot_list#$'\n'}
    fi
    if [[ $__sandlot_list ]]; then builtin printf '%s\n' "$__sandlot_list"; fi
    builtin return 0
fi 2>/dev/null
{
    builtin trap - EXIT
    builtin eval "${__sandlot_on_exit:+builtin $__sandlot_on_exit}"
    __sandlot_status=0
} 2>/dev/null
builtin trap "$@" || __sandlot_status=$?
{
    __sandlot_on_exit=$(builtin trap -p EXIT)
    builtin trap "$__sandlot_exit_trap" EXIT
    for __sandlot_name; do
        if [[ $__sandlot_name == DEBUG && ! $(builtin trap -p DEBUG) ]]; then builtin trap '' DEBUG; fi
    done
    __sandlot_on_return=$(builtin trap -p RETURN)
    if [[ $__sandlot_on_return ]]; then builtin trap 'builtin eval "builtin $__sandlot_on_return"' RETURN; fi
    builtin declare -g +x __sandlot_on_exit __sandlot_on_return __sandlot_status __sandlot_name # `set -a` exports variables
    builtin return "$__sandlot_status"
} >/dev/null 2>&1
