"""Evaluate a defense: `python run.py attack=pma defense=adaptive_smoothing`. See `python run.py --help`."""

import sys

if __name__ == "__main__":
    sys.path.append(sys.path.pop(0))  # the folder of this file goes last, so that its folders shadow none of the user's

from gauntlet.commands.run import main

if __name__ == "__main__":
    sys.exit(main())
