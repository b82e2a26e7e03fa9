"""Train a network by a recipe: `python train.py recipe=pgd_at dataset=digits`. See `python train.py --help`."""

import sys

sys.path.append(sys.path.pop(0))  # the folder of this file goes last, so that its folders shadow none of the user's

from gauntlet.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
