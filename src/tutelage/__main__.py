"""`python -m tutelage`, which `torchrun -m tutelage` needs."""

from tutelage.cli import main

main()
