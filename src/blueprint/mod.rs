//! Blueprints: the staged recipe that turns an EvolutionContext into a commit on a candidate branch.
