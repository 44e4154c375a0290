//! The evidence of an incident.
