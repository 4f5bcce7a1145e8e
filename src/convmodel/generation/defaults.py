"""Default sampling settings of conversations: of sessions, in the terminal, on the chat page and in self-chat."""

TEMPERATURE, TOP_P = 0.8, 0.95

CHAT_SAMPLING = {"do_sample": True, "temperature": TEMPERATURE, "top_p": TOP_P, "top_k": 0}
"""The same as options of `generate`."""
