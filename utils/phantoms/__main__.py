"""Write a synthetic patient to a file: python -m utils.phantoms --help."""
from utils.phantoms import main

main()
