"""`python -m tutelage`, which `torchrun -m tutelage` needs."""

from tutelage.cli.main import main

main()
