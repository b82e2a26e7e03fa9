"""`gauntlet completion bash|zsh`: print what completes subcommands, and the options of `run` and `train`, at TAB.

Hydra answers for the options: it reads the line so far from the environment, as if a script had been typed.
"""

import sys
from collections.abc import Sequence

from gauntlet.commands.subcommands import COMMANDS

SCRIPT = r"""_gauntlet() {
    local words="${COMP_WORDS[COMP_CWORD]}" line
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "@COMMANDS@" -- "$words"))
    elif [ "${COMP_WORDS[1]}" = run ] || [ "${COMP_WORDS[1]}" = train ]; then
        line="${COMP_LINE:0:COMP_POINT}"
        line="gauntlet ${line#*"${COMP_WORDS[1]}"}"
        COMPREPLY=($(COMP_LINE="$line" COMP_POINT=${#line} gauntlet "${COMP_WORDS[1]}" -sc query=bash 2>/dev/null))
        compopt -o nospace 2>/dev/null
    fi
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
COMP_WORDBREAKS=$COMP_WORDBREAKS complete -o default -F _gauntlet gauntlet
"""

ZSH = "autoload -Uz bashcompinit && bashcompinit\n"


def main(words: Sequence[str]) -> int:
    """Print the completion script of a shell; return the exit status."""
    if list(words) not in (["bash"], ["zsh"]):
        sys.stderr.write('usage: eval "$(gauntlet completion bash)", or zsh\n')
        return 0 if words and words[0] in ("-h", "--help") else 2
    names = dict.fromkeys(name.split()[0] for name in COMMANDS)
    sys.stdout.write((ZSH if words[0] == "zsh" else "") + SCRIPT.replace("@COMMANDS@", " ".join(names)))
    return 0
