"""How a model is run: in which precision, and by what. Modules here know parts of models, and no model."""
