//! The body of a request on its way: bytes, or a file that is read while it is sent.

use std::fs::File;
use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};

/// The largest piece, in bytes: the memory that a body in a file needs.
const PIECE_BYTES_MAX: u64 = 64 << 10;

/// The largest chunk of a body that is sent in chunks, in bytes: small, so that a body of some size has many.
const CHUNK_BYTES_MAX: u64 = 8 << 10;

/// A body that is sent.
#[derive(Debug)]
pub(super) struct Outgoing {
    source: Source,
    /// Bytes that are not sent yet.
    left: u64,
    /// The largest next piece, in bytes.
    piece: u64,
    /// Whether it is sent in chunks, so that its size is not told before.
    is_chunked: bool,
}

#[derive(Debug)]
enum Source {
    Bytes(Bytes),
    File(File),
}

impl Outgoing {
    pub(super) fn of_bytes(bytes: Bytes, is_chunked: bool) -> Self {
        let left = bytes.len() as u64;
        Self::new(Source::Bytes(bytes), left, is_chunked)
    }

    pub(super) fn of_file(file: File, is_chunked: bool) -> io::Result<Self> {
        let left = file.metadata()?.len();
        Ok(Self::new(Source::File(file), left, is_chunked))
    }

    fn new(source: Source, left: u64, is_chunked: bool) -> Self {
        let piece = match (&source, is_chunked) {
            // At least two chunks, so that a service that reads only the first one is found.
            (_, true) => left.div_ceil(2).clamp(1, CHUNK_BYTES_MAX),
            (Source::Bytes(_), false) => left,
            (Source::File(_), false) => PIECE_BYTES_MAX,
        };
        Self { source, left, piece, is_chunked }
    }

    /// The next piece. A file is on this machine, so reading a piece of it takes no time that matters.
    fn next(&mut self) -> io::Result<Bytes> {
        let size = usize::try_from(self.left.min(self.piece)).map_err(io::Error::other)?;
        let piece = match &mut self.source {
            Source::Bytes(bytes) => bytes.split_to(size),
            Source::File(file) => {
                let mut piece = vec![0; size];
                file.read_exact(&mut piece)?;
                piece.into()
            }
        };
        self.left -= piece.len() as u64;
        Ok(piece)
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready((self.left > 0).then(|| self.next().map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_chunked { SizeHint::default() } else { SizeHint::with_exact(self.left) }
    }
}
