"""Tools and structured answers: how models write calls, how answers are parsed and forced."""
