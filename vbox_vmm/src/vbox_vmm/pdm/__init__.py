"""PDM: the pluggable device manager.  Instances, chains, life cycle, helpers, roles."""
