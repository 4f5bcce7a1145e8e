"""How a model talks unless it is told otherwise.

Owns: the settings of conversations: the terminal's, the page's, those of models with themselves.
"""

TEMPERATURE, TOP_P = 0.8, 0.95
