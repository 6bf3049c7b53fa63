from crescendo.cli import main

main()
