# SPDX-License-Identifier: Apache-2.0
"""Completions for bash, zsh and fish. The scripts hold all words, so that no key press starts a program.

Completed are: verbs; the options of a verb; the values of an option if they are few or files, each of a list with
commas; files as arguments, and criu:DIR where a snapshot is read; and for ROOT its kinds and pids, with names, but not
for a ROOT of another host. Where a name is typed for ROOT, bash offers the pids of the processes that have it.
"""

from collections.abc import Iterator

from agent import VERSION
from agent.rootname import KINDS
from manual.verbs import FILES, HELP, Option, Verb, verbs

_SNAPSHOTS = frozenset({"FILE", "IN", "A", "B"})  # arguments that may be criu:DIR, too
_ELSEWHERE = frozenset({"relay"})  # verbs whose ROOT is a tree of another host, whose pids are not known here
_ZSH_SIGNS = {ord("["): "(", ord("]"): ")", ord(":"): "\\:"}
_TOP = (HELP, Option(("--version",), "", "Print the version and exit."))


def scripts() -> Iterator[tuple[str, str]]:
    """Yield the place below /usr/share and the text of each script."""
    found = verbs()
    yield "bash-completion/completions/ckptree", bash(found)
    yield "zsh/vendor-completions/_ckptree", zsh(found)
    yield "fish/vendor_completions.d/ckptree.fish", fish(found)


def _has_root(verb: Verb) -> bool:
    return verb.name not in _ELSEWHERE and any(argument.name == "ROOT" for argument in verb.arguments)


def _takes_files(verb: Verb) -> bool:
    return any(argument.name in FILES for argument in verb.arguments)


def _takes_snapshots(verb: Verb) -> bool:
    return any(argument.name in _SNAPSHOTS for argument in verb.arguments)


def _words(verb: Verb) -> str:
    """Return the words that a verb takes as its first argument, where that has few values."""
    return " ".join(word for argument in verb.arguments for word in argument.choices)


def _head(comment: str = "#") -> str:
    return (
        f"{comment} SPDX-License-Identifier: Apache-2.0\n{comment} Made from the command line of ckptree {VERSION}.\n"
    )


# ---- bash ----------------------------------------------------------------------------------------------------------


def bash(found: list[Verb]) -> str:
    """Return the script for bash 4 and later; it needs none of the helpers of bash-completion."""
    cases = "".join(_bash_case(verb) for verb in found)
    names = " ".join(verb.name for verb in found)
    top = " ".join(name for option in _TOP for name in option.names)
    return f"""{_head()}
_ckptree() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} verb= options= values= root=
    local images= files=no index several= done=
    COMPREPLY=()
    # Bash cuts words at = and :, where those are in COMP_WORDBREAKS: an option's value is behind the =.
    if [[ $word == = ]]; then
        word=
    elif [[ $before == = ]]; then
        before=${{COMP_WORDS[COMP_CWORD - 2]}}
    fi
    for ((index = 1; index < COMP_CWORD; index++)); do
        if [[ ${{COMP_WORDS[index]}} != -* ]]; then
            verb=${{COMP_WORDS[index]}}
            break
        fi
    done
    if [[ -z $verb ]]; then
        if [[ $word == -* ]]; then
            mapfile -t COMPREPLY < <(compgen -W '{top}' -- "$word")
        else
            mapfile -t COMPREPLY < <(compgen -W '{names}' -- "$word")
        fi
        return
    fi
    case $verb in
{cases}    *) return ;;
    esac
    if [[ -n $several ]]; then
        done=${{word%"${{word##*,}}"}}
        mapfile -t COMPREPLY < <(compgen -P "$done" -W "$several" -- "${{word##*,}}")
        compopt -o nospace
    elif [[ -n $values ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$values" -- "$word")
    elif [[ $files == value ]]; then
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
    elif [[ $files == none ]]; then
        :
    elif [[ $word == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
    elif [[ -n $root ]]; then
        local process name found=()
        for process in /proc/[0-9]*; do
            {{ read -r name <"$process/comm"; }} 2>/dev/null || continue
            [[ ${{process#/proc/}} == "$word"* || -n $word && $name == "$word"* ]] && found+=("${{process#/proc/}} ($name)")
        done
        mapfile -t COMPREPLY < <(compgen -W "$root" -- "$word")
        [[ ${{COMPREPLY[0]}} == *[:/] && ${{#found[@]}} == 0 ]] && compopt -o nospace
        # Names are shown beside several pids; a single word is what bash puts into the line.
        [[ ${{#found[@]}} == 1 && ${{#COMPREPLY[@]}} == 0 || ${{COMP_TYPE:-9}} == 37 ]] && found=("${{found[@]%% *}}")
        COMPREPLY+=("${{found[@]}}")
    elif [[ $files == yes ]]; then
        compopt -o filenames
        if [[ $word == : ]]; then
            word= images=
        elif [[ -n $images && criu: == "$word"* ]]; then
            COMPREPLY=(criu:)
            compopt -o nospace
        fi
        local prefix=
        [[ $word == criu:* ]] && prefix=criu:
        mapfile -t -O ${{#COMPREPLY[@]}} COMPREPLY < <(compgen -P "$prefix" -f -- "${{word#"$prefix"}}")
    fi
}}
complete -F _ckptree ckptree
"""


def _bash_case(verb: Verb) -> str:
    lines = [
        f"    {verb.name})\n",
        f"        options='{' '.join(name for one in verb.options for name in one.names)}'\n",
    ]
    if _has_root(verb):
        lines.append(f"        root='{' '.join(KINDS)}'\n")
    if _takes_files(verb):
        lines.append("        files=yes\n")
    if _takes_snapshots(verb):
        lines.append("        images=yes\n")
    values = [one for one in verb.options if one.value]
    words = _words(verb)
    if values or words:
        lines.append("        case $before in\n")
        for option in values:
            action = (
                f"{'several' if option.several else 'values'}='{' '.join(option.choices)}'" if option.choices
                else f"files={'value' if option.value in FILES else 'none'}"
            )  # fmt: skip
            lines.append(f"        {' | '.join(option.names)}) {action} ;;\n")
        if words:
            lines.append(f"        *) [[ $word == -* ]] || ((COMP_CWORD > index + 1)) || values='{words}' ;;\n")
        lines.append("        esac\n")
    return "".join([*lines, "        ;;\n"])


# ---- zsh -----------------------------------------------------------------------------------------------------------


def zsh(found: list[Verb]) -> str:
    """Return the script for zsh's completion system."""
    names = "".join(f"        {_zsh_quoted(f'{verb.name}:{_first(verb.help)}')}\n" for verb in found)
    cases = "".join(_zsh_case(verb) for verb in found)
    top = " ".join(_zsh_option(option) for option in _TOP)
    return f"""#compdef ckptree
{_head()}
_ckptree_root() {{
    local -a pids
    local process name
    for process in /proc/<->(N); do
        {{ read -r name <$process/comm }} 2>/dev/null && pids+=("${{process:t}}:${{name//:/;}}")
    done
    _describe -t pids pid pids
    compadd -S '' -- {" ".join(KINDS)}
}}

_ckptree_snapshot() {{
    if compset -P criu:; then
        _files -/
    else
        _files
        compadd -S '' -- criu:
    fi
}}

_ckptree() {{
    local curcontext=$curcontext state line
    local -a verbs=(
{names}    )
    _arguments -C {top} '1: :->verb' '*:: :->rest' && return
    case $state in
    verb) _describe -t commands command verbs ;;
    rest)
        case $line[1] in
{cases}        esac
        ;;
    esac
}}

_ckptree "$@"
"""


def _zsh_case(verb: Verb) -> str:
    words = [_zsh_option(option) for option in verb.options]
    for place, argument in enumerate(verb.arguments, 1):
        action = "_ckptree_snapshot" if argument.name in _SNAPSHOTS else "_files"
        action = ("_ckptree_root" if _has_root(verb) else " ") if argument.name == "ROOT" else action
        action = f"({' '.join(argument.choices)})" if argument.choices else action
        words.append(_zsh_quoted(f"{place}:{argument.name}:{action}"))
    return f"        {verb.name}) _arguments -s {' '.join(words)} ;;\n"


def _zsh_option(option: Option) -> str:
    about = _first(option.help).translate(_ZSH_SIGNS)
    value = ""
    if option.value:
        action = f"({' '.join(option.choices)})" if option.choices else "_files" if option.value in FILES else " "
        if option.several:
            action = f"_values -s , {option.value} {' '.join(option.choices)}"
        value = f":{option.value}:{action}"
    excludes = f"({' '.join(option.names)})" if len(option.names) > 1 else ""
    return " ".join(
        _zsh_quoted(f"{excludes}{name}{'=' if value and name.startswith('--') else ''}[{about}]{value}")
        for name in option.names
    )


def _zsh_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# ---- fish ----------------------------------------------------------------------------------------------------------


_FISH = """
# True if the verb is this one: a member of a family, such as `fleet events`, may have the name of a verb. With `alone`
# it must be the last word.
function __ckptree_words
    set -l words (commandline -opc)
    set -e words[1]
    set -l place 1
    while set -q words[$place]; and string match -q -- '-*' $words[$place]
        set place (math $place + 1)
    end
    test "$words[$place]" = $argv[1]; and begin; not set -q argv[2]; or test (count $words) -eq $place; end
end
"""


def fish(found: list[Verb]) -> str:
    """Return the script for fish 3 and later."""
    names = " ".join(verb.name for verb in found)
    lines = [_head(), _FISH, "complete -c ckptree -f\n"]
    none = f"-n 'not __fish_seen_subcommand_from {names}'"
    lines += [_fish_option(none, option) for option in _TOP]
    lines += [f"complete -c ckptree {none} -a {verb.name} -d {_fish_quoted(_first(verb.help))}\n" for verb in found]
    for verb in found:
        here = f"-n '__ckptree_words {verb.name}'"
        if _has_root(verb):
            lines.append(f"complete -c ckptree {here} -a '(__fish_complete_pids) {' '.join(KINDS)}'\n")
        if _takes_files(verb):
            lines.append(f"complete -c ckptree {here} -F\n")
        if _takes_snapshots(verb):
            lines.append(f"complete -c ckptree {here} -a criu:\n")
        if words := _words(verb):
            lines.append(f"complete -c ckptree -n '__ckptree_words {verb.name} alone' -a '{words}'\n")
        lines += [_fish_option(here, option) for option in verb.options]
    return "".join(lines)


def _fish_option(condition: str, option: Option) -> str:
    words = ["complete -c ckptree", condition]
    words += [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names]
    if option.several:
        words.append(f"-x -a '(__fish_append , {' '.join(option.choices)})'")
    elif option.choices:
        words.append(f"-x -a '{' '.join(option.choices)}'")
    elif option.value:
        words.append("-r -F" if option.value in FILES else "-x")
    return " ".join([*words, f"-d {_fish_quoted(_first(option.help))}"]) + "\n"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _first(text: str) -> str:
    """Return the first sentence of a text."""
    return text.partition(". ")[0].rstrip(".")
