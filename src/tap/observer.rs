//! Counts what the users of one connection get, and hands over the copies of exchanges that an order asks for.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use super::capture::SlotCaptures;
use super::copying::Admit;
use super::http1::{End, Exchange, Http1, Side};
use super::relay::{Copies, Outcome};
use crate::live::{Class, Route, Sample};

/// A client that leaves without an answer after this time gave up waiting: the request counts as not answered. One that
/// leaves earlier changed its mind, as browsers do, and says nothing about the service.
const PATIENCE: Duration = Duration::from_secs(1);

/// The reader of a connection, with the sample that it counts into.
pub struct Observer<'s> {
    sample: &'s RefCell<Sample>,
    reader: Http1,
    begun: Instant,
    /// The same moment, in the time of the world.
    begun_at: SystemTime,
    captures: Rc<SlotCaptures>,
    listener: Rc<str>,
    /// The number of the connection, once a copy was made of it.
    connection: Option<u64>,
    found: Vec<Exchange>,
    has_client_bytes: bool,
    has_service_bytes: bool,
}

impl Copies for Observer<'_> {
    fn bytes(&mut self, from: Side, bytes: &[u8]) {
        match from {
            Side::Client => self.has_client_bytes = true,
            Side::Service => self.has_service_bytes = true,
        }
        if self.reader.is_done() {
            return;
        }
        let at_us = micros(self.begun.elapsed());
        self.guarded(|reader, found| reader.bytes(from, at_us, bytes, found));
    }
}

impl<'s> Observer<'s> {
    /// Observes a connection that was just accepted at a listener.
    pub fn new(sample: &'s RefCell<Sample>, captures: Rc<SlotCaptures>, listener: Rc<str>) -> Self {
        let reader = Http1::copying(Rc::clone(&captures) as Rc<dyn Admit>);
        let (begun, begun_at, connection, found) = (Instant::now(), SystemTime::now(), None, Vec::new());
        let (has_client_bytes, has_service_bytes) = (false, false);
        Self {
            sample,
            reader,
            begun,
            begun_at,
            captures,
            listener,
            connection,
            found,
            has_client_bytes,
            has_service_bytes,
        }
    }

    /// The connection has ended.
    pub fn end(mut self, outcome: Outcome) {
        if self.reader.is_opaque() {
            let connections = &mut self.sample.borrow_mut().connections;
            connections.ended = connections.ended.saturating_add(1);
            if outcome.is_reset && outcome.by == Side::Service {
                connections.reset = connections.reset.saturating_add(1);
            } else if outcome.by == Side::Service && self.has_client_bytes && !self.has_service_bytes {
                connections.empty = connections.empty.saturating_add(1);
            }
            return;
        }
        let at_us = micros(self.begun.elapsed());
        self.guarded(|reader, found| reader.end(outcome.by, outcome.is_reset, at_us, found));
    }

    /// Calls the reader and counts what it finds. The relay continues whatever the reader does.
    fn guarded(&mut self, act: impl FnOnce(&mut Http1, &mut Vec<Exchange>)) {
        let (reader, found) = (&mut self.reader, &mut self.found);
        if catch_unwind(AssertUnwindSafe(|| act(reader, found))).is_err() {
            self.reader.give_up();
            self.found.clear();
        }
        for exchange in std::mem::take(&mut self.found) {
            count(&mut self.sample.borrow_mut(), &exchange);
        }
        for copied in self.reader.take_copied() {
            let connection = *self.connection.get_or_insert_with(|| self.captures.connection());
            self.captures.push(connection, &self.listener, self.begun_at, copied);
        }
    }
}

/// The instance could not be reached.
pub fn count_unreached(sample: &RefCell<Sample>) {
    let connections = &mut sample.borrow_mut().connections;
    connections.ended = connections.ended.saturating_add(1);
    connections.reset = connections.reset.saturating_add(1);
}

fn count(sample: &mut Sample, exchange: &Exchange) {
    let class = exchange.status.and_then(Class::of_status);
    let class = match (exchange.end, class) {
        (End::ByService, _) | (_, None) => Class::Aborted,
        (_, Some(class)) => class,
    };
    let left_early = exchange.end == End::ByClient && exchange.status.is_none();
    if left_early && exchange.us < micros(PATIENCE) {
        return;
    }
    let counts = sample.route(Route::of_request(&exchange.method, &exchange.target));
    match exchange.end {
        // How long a client listens to an answer says nothing about the service.
        End::ByClient if exchange.status.is_some() => counts.add(class, 1),
        _ => counts.request(class, exchange.us),
    }
    counts.bytes_in = counts.bytes_in.saturating_add(exchange.bytes_in);
    counts.bytes_out = counts.bytes_out.saturating_add(exchange.bytes_out);
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
