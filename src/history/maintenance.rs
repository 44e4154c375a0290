//! One maintenance record, read from the journal.

use crate::interface::operations::HistoryEntry;
use crate::interface::types::{RecordId, RuntimeMaintenanceRecord, SCHEMA};
use crate::lifecycle::Maintenance;
use crate::narrate;
use crate::time::Timestamp;

/// The record of the end of an evolution, or of a restart, from an entry of the journal.
#[derive(Debug)]
pub(super) struct MaintenanceRecord(pub(super) RuntimeMaintenanceRecord);

impl MaintenanceRecord {
    pub(super) fn new(id: RecordId, seq: u64, at: Timestamp, maintenance: &Maintenance) -> Self {
        Self(RuntimeMaintenanceRecord {
            schema: SCHEMA.to_owned(),
            id,
            incident_id: maintenance.incident.clone(),
            evolution_id: maintenance.evolution.clone(),
            candidate_id: maintenance.candidate.clone(),
            validation_id: maintenance.report.clone(),
            action: maintenance.action,
            decided_by: maintenance.decided_by.clone(),
            reason: narrate::reason(&maintenance.reason),
            from: maintenance.from.clone(),
            to: maintenance.to.clone(),
            at,
            journal_seq: seq,
        })
    }

    /// The entry that `History` shows.
    pub(super) fn entry(&self) -> HistoryEntry {
        let Self(record) = self;
        HistoryEntry {
            schema: SCHEMA.to_owned(),
            id: record.id.0.clone(),
            started_at: record.at,
            finished_at: Some(record.at),
            action: Some(record.action),
            summary: record.reason.clone(),
            decided_by: Some(record.decided_by.clone()),
            incident_id: record.incident_id.clone(),
            candidate_id: record.candidate_id.clone(),
            report_id: record.validation_id.clone(),
            from: record.from.clone(),
            to: record.to.clone(),
        }
    }
}
