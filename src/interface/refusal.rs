//! Why a caller is refused.

/// Why a caller may not call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// Another user.
    User,
    /// It is a process of an instance, or descends from one: a policy anomaly. The process that was found.
    Instance(u32),
    /// It is in a control group of another supervisor's instance. This supervisor does not report it.
    Foreign(u32),
    /// It descends from the supervisor, as every process does that escapes from an instance: a policy anomaly.
    Descendant,
    /// It cannot be distinguished from a descendant of an instance, and it cannot prove the difference: why.
    Unprovable(String),
    /// It gave a wrong secret: a policy anomaly.
    WrongSecret,
    /// It has ended, so nothing is known about it.
    Gone,
    /// The system does not say who it is.
    Unknown(String),
}

impl RefusalReason {
    /// Whether an owner reports it as a policy anomaly: a supervised process tried to get the operator's authority.
    pub fn is_policy_anomaly(&self) -> bool {
        matches!(self, Self::Instance(_) | Self::Descendant | Self::WrongSecret)
    }
}
