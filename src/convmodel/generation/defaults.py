"""Default sampling settings of conversations: in the terminal, on the chat page and in self-chat."""

TEMPERATURE, TOP_P = 0.8, 0.95
