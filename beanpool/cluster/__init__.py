"""All servers: who they are, who watches them, who is asked."""
