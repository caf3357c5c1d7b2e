"""A folder for PYTHONPATH, whose ``sitecustomize`` an interpreter imports when it starts (``mrm run --children``)."""
