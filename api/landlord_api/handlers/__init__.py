"""The operations, by topic. Each class is made once, with what it needs; its methods are handlers."""
