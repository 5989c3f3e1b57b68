"""`sandlot completion`: scripts for shells, which ask `sandlot complete` what can follow."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Sequence

from controlplane.cli import commands
from controlplane.cli.parsing import Options, Parser, Say
from controlplane.cli.place import place_of
from controlplane.client.names import SHORT, listed, name_of
from controlplane.client.server import Server

DESCRIPTION = """Print a script that makes a shell complete the commands of sandlot, their options, and the ids and
names of sandboxes, for which the server is asked."""
EXAMPLES = """examples:
  source <(sandlot completion bash)                         # for this shell
  sandlot completion bash > ~/.local/share/bash-completion/completions/sandlot
  sandlot completion zsh > ~/.zfunc/_sandlot                # with fpath+=~/.zfunc before compinit
  sandlot completion fish > ~/.config/fish/completions/sandlot.fish
"""
SHELLS = ("bash", "zsh", "fish")
# A person waits for the answer, and a server that does not answer must not keep the shell.
TIMEOUT_S = 1.0

# A shell puts a word into the line as it is, and obeys what is in it: `$(…)`, `;`, a newline, a leading dash.
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)

# `sandlot complete -- WORDS` prints a line for each word that can stand in the place of the last one, and nothing if
# file names belong there.
BASH = r"""_sandlot() {
    local word IFS=$'\n'
    # Colons split words in bash: ID:PATH is one word for us.
    local line="${COMP_LINE:0:COMP_POINT}" words
    IFS=$' \t\n' read -ra words <<< "$line"
    [[ "$line" == *[[:space:]] ]] && words+=("")
    word="${words[${#words[@]}-1]}"
    COMPREPLY=($(command "${words[0]}" complete -- "${words[@]:1}" 2>/dev/null))
    if [[ ${#COMPREPLY[@]} -eq 0 ]]; then
        compopt -o default 2>/dev/null
        return
    fi
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[:=] ]] && compopt -o nospace 2>/dev/null
    # Bash puts a candidate behind the last colon or equals sign of the word.
    local prefix="${word%"${word##*[:=]}"}"
    COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
}
complete -F _sandlot sandlot
"""
ZSH = r"""#compdef sandlot
_sandlot() {
    local -a found
    found=("${(@f)$(command $words[1] complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    found=("${(@)found:#}")
    if (( ${#found} == 0 )); then
        _files
    elif [[ ${#found} -eq 1 && $found[1] == *[:=] ]]; then
        compadd -Q -S '' -- "${found[@]}"
    else
        compadd -Q -- "${found[@]}"
    fi
}
if [ "$funcstack[1]" = "_sandlot" ]; then
    _sandlot "$@"
else
    compdef _sandlot sandlot
fi
"""
FISH = r"""function __sandlot_complete
    set -l words (commandline -opc) (commandline -ct)
    command $words[1] complete -- $words[2..-1] 2>/dev/null
end
complete -c sandlot -e
complete -c sandlot -a '(__sandlot_complete)'
"""
MakeParser = Callable[[str], argparse.ArgumentParser]
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def add(parser: Parser) -> None:
    """Add the options."""
    parser.add_argument("shell", choices=SHELLS, help="your shell")


def run(options: Options, say: Say) -> int:
    """Print the script."""
    say(SCRIPTS[options.shell], end="")
    return 0


def complete(words: Sequence[str], make_parser: MakeParser, say: Say) -> int:
    """Print what can stand in the place of the last word; nothing for file names. Never fail: a person types.

    *make_parser* returns the parser of everything, in which the named command has its options.
    """
    try:
        word = words[-1] if words else ""
        found = sorted({each for each in candidates(words, make_parser) if each.startswith(word)})
    except (Exception, SystemExit):  # noqa: BLE001 - a traceback would land in the middle of the line that is typed
        return 0
    if found:
        say("\n".join(found))
    return 0


def candidates(words: Sequence[str], make_parser: MakeParser) -> Iterator[str]:
    """Yield words that can stand in the place of the last one, whatever it begins with."""
    *before, word = words or [""]
    if not before:
        yield from commands.BY_NAME
        yield from ("--help", "--version")
        return
    if "--" in before or before[0] not in commands.BY_NAME:  # behind `--` is a command of a sandbox
        return
    parser, before = _innermost(make_parser(before[0]), before)
    option = _option(parser, before[-1]) if before else None
    if option is not None and option.nargs != 0:
        yield from _values(option, words)
    elif word.startswith("-"):
        yield from _flags(parser)
    else:
        yield from _positional(parser, before, words)


def _innermost(parser: argparse.ArgumentParser, before: Sequence[str]) -> tuple[argparse.ArgumentParser, list[str]]:
    """Return the parser of the action that was typed, such as `keys create`, and the words behind the action."""
    rest = list(before)
    for index, word in enumerate(before):
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction) and word in action.choices:
                return _innermost(action.choices[word], rest[index + 1 :])
    return parser, rest


def _option(parser: argparse.ArgumentParser, word: str) -> argparse.Action | None:
    return next((action for action in parser._actions if word in action.option_strings), None)


def _flags(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if action.help != argparse.SUPPRESS:
            yield from (flag for flag in action.option_strings if flag.startswith("--"))


def _values(action: argparse.Action, words: Sequence[str]) -> Iterator[str]:
    if action.choices:
        yield from map(str, action.choices)
    elif action.dest == "filter":
        yield from ("state=", "metadata=", "image=")


def _positional(parser: argparse.ArgumentParser, before: Sequence[str], words: Sequence[str]) -> Iterator[str]:
    """Yield what can be the next positional argument."""
    place = _count(parser, before)
    actions = [action for action in parser._actions if not action.option_strings]
    if not actions:
        return
    action = actions[min(place, len(actions) - 1)]
    if action.choices:
        yield from map(str, action.choices)
    elif action.metavar == "ID":
        yield from _sandboxes(words)
    elif action.metavar in ("SOURCE", "DESTINATION") and not re.match(r"[/.~]|.*:", words[-1]):
        yield from (f"{each}:" for each in _sandboxes(words))


def _count(parser: argparse.ArgumentParser, before: Sequence[str]) -> int:
    """Return how many positional arguments were typed."""
    count, is_value = 0, False
    for word in before:
        if is_value:
            is_value = False
        elif word.startswith("-") and word != "-":
            option = _option(parser, word)
            is_value = option is not None and option.nargs != 0
        else:
            count += 1
    return count


def _sandboxes(words: Sequence[str]) -> Iterator[str]:
    """Yield names and short ids, as the server that the words name has them."""
    given = {flag: _given(words, flag) for flag in ("--server", "--api-key", "--key-file")}
    place = place_of(given["--server"], given["--api-key"], given["--key-file"], None)
    for sandbox in listed(Server(place.address, place.key, timeout_s=TIMEOUT_S)):
        word = words[-1]
        found = (str(sandbox["id"])[: max(SHORT, len(word))], name_of(sandbox))
        yield from filter(_PLAIN.fullmatch, found)


def _given(words: Sequence[str], flag: str) -> str | None:
    for index, word in enumerate(words):
        if word == flag and index + 1 < len(words):
            return words[index + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None
