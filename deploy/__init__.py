"""How Boxoffice is run: on one machine, in containers, on Kubernetes."""
