//! What the narrator gives: one thing that happened or is to be done, in words.

/// The words for one event or one effect. The log, `rei status --watch` and the history each take what they need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// What it is about.
    pub kind: Kind,
    /// How much it matters.
    pub level: Level,
    /// The whole in one line.
    pub sentence: String,
    /// What came of the evolution's present step, if it says so: the history has it beside that step.
    pub detail: Option<String>,
}

/// What something is about: the `kind` of a monitor event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Where the lifecycle stands.
    Phase,
    /// What is wrong with Active.
    Incident,
    /// An instance of the runtime.
    Instance,
    /// How far some work is.
    Progress,
    /// What a judge says.
    Verdict,
    /// What is decided, by an operator or by the supervisor.
    Decision,
}

impl Kind {
    /// The word that a monitor event has.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Phase => "phase",
            Self::Incident => "incident",
            Self::Instance => "instance",
            Self::Progress => "progress",
            Self::Verdict => "verdict",
            Self::Decision => "decision",
        }
    }
}

/// How much something matters to a person who reads the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Only for one who looks closely: the log has it at debug.
    Detail,
    /// A step of the story.
    Step,
    /// Something is wrong, or was taken back.
    Warning,
}

impl Words {
    pub(super) const fn new(kind: Kind, level: Level, sentence: String) -> Self {
        Self { kind, level, sentence, detail: None }
    }

    /// The same, but only for one who looks closely.
    pub(super) fn lowered(self) -> Self {
        Self { level: Level::Detail, ..self }
    }

    /// The same, with what the history has beside the step.
    pub(super) fn with(self, detail: String) -> Self {
        Self { detail: Some(detail), ..self }
    }
}
