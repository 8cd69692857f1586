"""Stage one: class-agnostic mask proposals. Modules here never import another stage."""
