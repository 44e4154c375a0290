//! The open incidents. Findings with the same fingerprint are one incident.

use std::collections::BTreeMap;

use crate::interface::types::{IncidentId, RuntimeIncident, RuntimeRef, SCHEMA, Version};
use crate::lifecycle::{Finding, OPEN_INCIDENTS_MAX};
use crate::time::Timestamp;

/// The open incidents, by fingerprint.
#[derive(Debug, Default)]
pub(super) struct Incidents {
    open: BTreeMap<String, RuntimeIncident>,
    opened: u64,
}

impl Incidents {
    /// Takes a detector's finding about Active.
    pub(super) fn found(&mut self, at: Timestamp, finding: &Finding, active: Option<&Version>) {
        if let Some(open) = self.open.get_mut(&finding.fingerprint) {
            open.occurrences += 1;
            open.last_seen = at;
            open.class = finding.class;
            open.severity = finding.severity;
            open.cause.clone_from(&finding.cause);
            open.summary.clone_from(&finding.summary);
            return;
        }
        if self.open.len() >= OPEN_INCIDENTS_MAX {
            return;
        }
        self.opened += 1;
        let runtime = RuntimeRef {
            store_path: active.map(|version| version.store_path.clone()),
            commit: active.map(|version| version.rev.clone()),
            ..RuntimeRef::default()
        };
        let incident = RuntimeIncident {
            schema: SCHEMA.to_owned(),
            id: IncidentId::numbered(self.opened),
            class: finding.class,
            cause: finding.cause.clone(),
            severity: finding.severity,
            runtime,
            fingerprint: finding.fingerprint.clone(),
            first_seen: at,
            last_seen: at,
            occurrences: 1,
            summary: finding.summary.clone(),
            evidence: Vec::new(),
        };
        self.open.insert(finding.fingerprint.clone(), incident);
    }

    /// Lost records have used the numbers up to this one. The next incident gets a higher number.
    pub(super) fn number_behind(&mut self, numbered: u64) {
        self.opened = self.opened.max(numbered);
    }

    /// Closes the incident with this id, if it is open.
    pub(super) fn close(&mut self, id: &str) -> Option<RuntimeIncident> {
        let fingerprint = self.open.values().find(|it| it.id.0 == id)?.fingerprint.clone();
        self.open.remove(&fingerprint)
    }

    pub(super) fn open(&self) -> impl Iterator<Item = &RuntimeIncident> {
        self.open.values()
    }
}
