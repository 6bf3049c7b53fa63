"""Compound scaling: depth, width and resolution by one number, and the largest that a budget pays for.

`coefficients` is arithmetic, `nets` applies it to a net, `budgets` finds phi, `report` shows what was found,
`search` finds the candidates of a search for coefficients, `candidates` records them.
"""
