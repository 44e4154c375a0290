//! Why a caller is refused.

/// Why a caller may not call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// Another user.
    User,
    /// It is a process of an instance, or descends from one: a policy anomaly. The process that was found.
    Instance(u32),
    /// It is in a control group of another supervisor's instance: no news of ours.
    Foreign(u32),
    /// It descends from the supervisor, as everything does that escapes from an instance: a policy anomaly.
    Descendant,
    /// It cannot be told from a descendant of an instance, and no proof would tell: why.
    Unprovable(String),
    /// It gave a secret that is not the secret: a policy anomaly.
    WrongSecret,
    /// It has ended, so nothing is known about it.
    Gone,
    /// The system does not say who it is.
    Unknown(String),
}

impl RefusalReason {
    /// Whether an owner reports it as a policy anomaly: something supervised reaches for the operator's authority.
    pub fn is_policy_anomaly(&self) -> bool {
        matches!(self, Self::Instance(_) | Self::Descendant | Self::WrongSecret)
    }
}
