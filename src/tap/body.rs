//! Where the body of an HTTP/1 message ends, and which of the bytes are its content. Nothing is kept here.

/// The longest line between chunks, in bytes: a chunk's size with its extensions, or a trailer.
const LINE_BYTES_MAX: u32 = 8 << 10;
/// The most bytes of all trailers of a message together.
const TRAILERS_BYTES_MAX: u32 = 64 << 10;
/// The digits of a chunk's size: 60 bits.
const SIZE_DIGITS_MAX: u8 = 15;

/// The content is not HTTP/1, or two readers could read it differently. Nothing more can be said about the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

/// The rest of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// Nothing, or nothing more.
    None,
    /// This number of bytes.
    Length(u64),
    /// Chunks.
    Chunks(Chunks),
    /// Everything until the connection is closed.
    UntilClose,
}

/// The place in a chunked body (RFC 9112, section 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunks {
    /// In the line before a chunk. The size is complete once a byte that is no digit has come.
    Size { size: u64, digits: u8, in_digits: bool, line: u32 },
    /// In a chunk, with this number of bytes left.
    Data(u64),
    /// After a chunk: its line end.
    DataEnd,
    /// In the lines after the last chunk.
    Trailers { line: u32, total: u32 },
}

impl Chunks {
    const START: Self = Self::Size { size: 0, digits: 0, in_digits: true, line: 0 };
}

impl Body {
    /// A body of this length.
    pub const fn of_length(bytes: u64) -> Self {
        if bytes == 0 { Self::None } else { Self::Length(bytes) }
    }

    /// A chunked body.
    pub const fn chunked() -> Self {
        Self::Chunks(Chunks::START)
    }

    /// Whether the body is complete.
    pub const fn is_done(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Takes bytes of the body. Returns how many bytes of the input belong to it. `content` gets those that are content:
    /// not the lines around chunks.
    pub fn take(&mut self, input: &[u8], mut content: impl FnMut(&[u8])) -> Result<usize, Unreadable> {
        match self {
            Self::None => Ok(0),
            Self::UntilClose => {
                content(input);
                Ok(input.len())
            }
            Self::Length(left) => {
                let taken = take(left, input.len());
                content(&input[..taken]);
                if *left == 0 {
                    *self = Self::None;
                }
                Ok(taken)
            }
            Self::Chunks(_) => self.take_chunks(input, content),
        }
    }

    fn take_chunks(&mut self, input: &[u8], mut content: impl FnMut(&[u8])) -> Result<usize, Unreadable> {
        let mut at = 0;
        while let (Self::Chunks(chunks), Some(&byte)) = (&mut *self, input.get(at)) {
            match chunks {
                Chunks::Data(left) => {
                    let taken = take(left, input.len() - at);
                    content(&input[at..at + taken]);
                    at += taken;
                    if *left == 0 {
                        *chunks = Chunks::DataEnd;
                    }
                    continue;
                }
                Chunks::DataEnd => match byte {
                    b'\n' => *chunks = Chunks::START,
                    b'\r' => {}
                    _ => return Err(Unreadable),
                },
                Chunks::Size { size, digits, in_digits, line } => {
                    *line += 1;
                    match (char::from(byte).to_digit(16), byte) {
                        (_, b'\n') if *digits == 0 => return Err(Unreadable),
                        (_, b'\n') if *size == 0 => *chunks = Chunks::Trailers { line: 0, total: 0 },
                        (_, b'\n') => *chunks = Chunks::Data(*size),
                        (Some(digit), _) if *in_digits => {
                            *size = *size << 4 | u64::from(digit);
                            *digits += 1;
                            if *digits > SIZE_DIGITS_MAX {
                                return Err(Unreadable);
                            }
                        }
                        (_, b';' | b' ' | b'\t' | b'\r') if *in_digits => *in_digits = false,
                        _ if *in_digits || *line > LINE_BYTES_MAX => return Err(Unreadable),
                        _ => {}
                    }
                }
                Chunks::Trailers { line, total } => {
                    *total += 1;
                    match byte {
                        b'\n' if *line == 0 => *self = Self::None,
                        b'\n' => *line = 0,
                        b'\r' => {}
                        _ => *line += 1,
                    }
                    if let Self::Chunks(Chunks::Trailers { line, total }) = self
                        && (*line > LINE_BYTES_MAX || *total > TRAILERS_BYTES_MAX)
                    {
                        return Err(Unreadable);
                    }
                }
            }
            at += 1;
        }
        Ok(at)
    }
}

/// Takes at most `input` bytes from what is left, and returns how many.
fn take(left: &mut u64, input: usize) -> usize {
    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(input);
    *left -= taken as u64;
    taken
}
