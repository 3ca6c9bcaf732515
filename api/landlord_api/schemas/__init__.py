"""marshmallow schemas: what requests may hold (they are validated with them) and what answers hold (documented)."""
