//! The reader of HTTP/1, on whole connections cut in all ways.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use proptest::prelude::*;

use super::copying::{Admit, Copied, Dropped, Extent};
use super::head::HEAD_BYTES_MAX;
use super::{End, Exchange, Http1, Side};

use Side::{Client, Service};

/// Gives the bytes to a reader, in pieces of these sizes, and returns what it found.
fn read(said: &[(Side, &[u8])], sizes: &[usize]) -> (Vec<Exchange>, Http1) {
    let (mut reader, mut out) = (Http1::default(), Vec::new());
    let mut sizes = sizes.iter().copied().cycle();
    for (at, (side, bytes)) in (0..).zip(said) {
        let mut rest = *bytes;
        while !rest.is_empty() {
            let size = sizes.next().unwrap_or(usize::MAX).clamp(1, rest.len());
            reader.bytes(*side, at * 1_000, &rest[..size], &mut out);
            rest = &rest[size..];
        }
    }
    (out, reader)
}

/// The exchanges in short: method, target, status, how they ended, bytes of request and answer.
fn short(exchanges: &[Exchange]) -> Vec<String> {
    let line = |it: &Exchange| {
        let status = it.status.map_or("-".to_owned(), |status| status.to_string());
        format!("{} {} {status} {:?} {} {} {}", it.method, it.target, it.end, it.us, it.bytes_in, it.bytes_out)
    };
    exchanges.iter().map(line).collect()
}

/// A connection with every kind of framing.
const RICH: &[(Side, &[u8])] = &[
    (Client, b"GET /a?x=1 HTTP/1.1\r\nHost: h\r\n\r\n"),
    (Service, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
    (Client, b"\r\nPOST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"),
    (Service, b"HTTP/1.1 100 Continue\r\n\r\n"),
    (Client, b"abc"),
    (Service, b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (Service, b"5;x=y\r\nhello\r\nA \r\n0123456789\r\n0\r\nTrailer: v\r\n\r\n"),
    (Client, b"HEAD /c HTTP/1.1\r\n\r\nPUT /d HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\nGET /e HTTP/1.1\r\n\r\n"),
    (Service, b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\nHTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n"),
    (Client, b"GET /f HTTP/1.0\n\n"),
    (Service, b"HTTP/1.0 500 Oh\r\n\r\nuntil the end"),
];

#[test]
fn every_framing_gives_its_exchange() {
    let (mut out, mut reader) = read(RICH, &[]);
    assert!(!reader.is_opaque());
    reader.end(Service, false, 11_000, &mut out);
    assert_eq!(
        short(&out),
        [
            "GET /a?x=1 200 Complete 1000 32 43",
            "POST /b 201 Complete 4000 75 164",
            "HEAD /c 200 Complete 1000 20 40",
            "PUT /d 204 Complete 1000 58 27",
            "GET /e 304 Complete 1000 19 48",
            "GET /f 500 Complete 2000 17 32",
        ]
    );
}

#[test]
fn an_exchange_that_does_not_end_names_who_left() {
    let begun: &[(Side, &[u8])] = &[
        (Client, b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n"),
        (Service, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"),
    ];
    for (by, end) in [(Service, End::ByService), (Client, End::ByClient)] {
        let (mut out, mut reader) = read(begun, &[]);
        reader.end(by, true, 5_000, &mut out);
        let found: Vec<_> = out.iter().map(|it| (it.target.as_str(), it.status, it.end, it.us)).collect();
        assert_eq!(found, [("/a", Some(200), end, 5_000), ("/b", None, end, 5_000)]);
    }
    let closing: &[(Side, &[u8])] = &[
        (Client, b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n"),
        (Service, b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
    ];
    let (mut out, mut reader) = read(closing, &[]);
    reader.end(Service, false, 5_000, &mut out);
    assert_eq!(out.len(), 1, "the service said that it does not answer the second one");
    let until_close: &[(Side, &[u8])] =
        &[(Client, b"GET / HTTP/1.1\r\n\r\n"), (Service, b"HTTP/1.1 200 OK\r\n\r\nhalf")];
    let (mut out, mut reader) = read(until_close, &[]);
    reader.end(Service, true, 5_000, &mut out);
    assert_eq!(out[0].end, End::ByService, "a reset is no orderly end");
}

#[test]
fn streams_and_tunnels_are_reported_at_their_heads() {
    let events: &[(Side, &[u8])] = &[
        (Client, b"GET /events HTTP/1.1\r\n\r\n"),
        (
            Service,
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        (Service, b"5\r\nhello\r\n"),
    ];
    let (mut out, mut reader) = read(events, &[]);
    assert_eq!((out.len(), out[0].end, out[0].us), (1, End::Stream, 1_000));
    reader.bytes(Service, 9_000, b"0\r\n\r\n", &mut out);
    reader.bytes(Client, 10_000, b"GET /next HTTP/1.1\r\n\r\n", &mut out);
    reader.bytes(Service, 11_000, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", &mut out);
    assert_eq!((out.len(), out[1].target.as_str()), (2, "/next"), "a stream that ends is no second exchange");
    for tunnel in [
        &[
            (Client, &b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"[..]),
            (Service, b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\x05hello"),
        ][..],
        &[(Client, b"CONNECT h:443 HTTP/1.1\r\n\r\n"), (Service, b"HTTP/1.1 200 OK\r\n\r\n\x16\x03")],
    ] {
        let (out, reader) = read(tunnel, &[]);
        assert_eq!((out.len(), out[0].end), (1, End::Stream));
        assert!(reader.is_done() && !reader.is_opaque(), "its exchange was read");
    }
}

#[test]
fn what_cannot_be_read_or_could_be_read_in_two_ways_is_given_up() {
    let long = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &vec![b'a'; HEAD_BYTES_MAX]].concat();
    let many = b"GET / HTTP/1.1\r\n\r\n".repeat(65);
    let requests: &[&[u8]] = &[
        b"\x16\x03\x01\x02\x00\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0123456789abcdef0\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxx",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        &long,
        &many,
    ];
    for request in requests {
        let (out, reader) = read(&[(Client, request)], &[]);
        assert!(reader.is_opaque() && out.is_empty(), "{}", String::from_utf8_lossy(&request[..request.len().min(80)]));
    }
    let answers: &[&[u8]] = &[
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n",
        b"220 mail.example ESMTP\r\n\r\n",
    ];
    for answer in answers {
        let (_, reader) = read(&[(Client, b"GET / HTTP/1.1\r\n\r\n"), (Service, answer)], &[]);
        assert!(reader.is_opaque(), "{}", String::from_utf8_lossy(answer));
    }
    let (_, speaks_first) = read(&[(Service, b"220 mail.example ESMTP\r\n")], &[]);
    assert!(speaks_first.is_opaque());
}

#[test]
fn an_answer_before_the_end_of_its_request_ends_the_exchange() {
    let said: &[(Side, &[u8])] = &[
        (Client, b"POST /big HTTP/1.1\r\nContent-Length: 10\r\n\r\n01234"),
        (Service, b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"),
        (Client, b"56789GET /next HTTP/1.1\r\n\r\n"),
        (Service, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ];
    let (out, _) = read(said, &[]);
    assert_eq!(short(&out), ["POST /big 413 Complete 1000 47 45", "GET /next 200 Complete 1000 22 38"]);
}

/// Text that looks like HTTP, whole or broken.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let known: Vec<&[u8]> = vec![
        b"GET / HTTP/1.1\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"\r\n",
        b"\n\n",
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
        b"ffffffffffffff\r\n",
    ];
    prop_oneof![
        4 => proptest::sample::select(known).prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(any::<u8>(), 0..40),
    ]
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Client), Just(Service)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_cut_gives_the_same_exchanges(sizes in proptest::collection::vec(1_usize..90, 1..20)) {
        let (whole, _) = read(RICH, &[]);
        let (cut, _) = read(RICH, &sizes);
        prop_assert_eq!(short(&cut), short(&whole));
    }

    #[test]
    fn any_bytes_in_any_cut_give_the_same_and_never_panic(
        said in proptest::collection::vec((side(), proptest::collection::vec(fragment(), 1..6)), 1..12),
        sizes in proptest::collection::vec(1_usize..40, 1..20),
        by in side(),
        is_reset: bool,
    ) {
        let said: Vec<(Side, Vec<u8>)> = said.into_iter().map(|(side, parts)| (side, parts.concat())).collect();
        let said: Vec<(Side, &[u8])> = said.iter().map(|(side, bytes)| (*side, bytes.as_slice())).collect();
        let (mut whole, mut one) = read(&said, &[]);
        let (mut cut, mut two) = read(&said, &sizes);
        prop_assert_eq!(one.is_opaque(), two.is_opaque());
        one.end(by, is_reset, 99_000, &mut whole);
        two.end(by, is_reset, 99_000, &mut cut);
        prop_assert_eq!(short(&cut), short(&whole));
    }
}

#[test]
fn the_memory_of_a_reader_is_bounded() {
    // A head that never ends, chunks that never end, requests that are never answered: each gives up or keeps nothing.
    let endless: &[(&[u8], &[u8])] = &[
        (b"GET / HTTP/1.1\r\n", b"X-Again: and again\r\n"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"5;extension=value\r\nhello\r\n"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"Trailer: t\r\n"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;", b"xxxxxxxxxxxxxxx"),
        (b"", b"GET /never HTTP/1.1\r\n\r\n"),
        (b"", b"\r\n\r\n\r\n"),
    ];
    for (first, again) in endless {
        let (mut reader, mut out) = (Http1::default(), Vec::new());
        reader.bytes(Client, 0, first, &mut out);
        for _ in 0..20_000 {
            reader.bytes(Client, 0, again, &mut out);
        }
        assert!(reader.kept_bytes() <= HEAD_BYTES_MAX + 65 * 1_200, "{}", reader.kept_bytes());
    }
}

/// An order for everything, with a bound on all memory.
#[derive(Debug)]
struct Everything {
    extent: Extent,
    memory: usize,
    used: Cell<usize>,
    dropped: RefCell<Vec<Dropped>>,
}

impl Everything {
    fn new(body_bytes_max: usize, memory: usize) -> Rc<Self> {
        let extent = Extent { body_bytes_max, events_max: 2 };
        Rc::new(Self { extent, memory, used: Cell::default(), dropped: RefCell::default() })
    }
}

impl Admit for Everything {
    fn admit(&self, _: &str) -> Option<Extent> {
        Some(self.extent)
    }

    fn reserve(&self, bytes: usize) -> bool {
        let used = self.used.get() + bytes;
        if used <= self.memory {
            self.used.set(used);
        }
        used <= self.memory
    }

    fn release(&self, bytes: usize) {
        self.used.set(self.used.get() - bytes);
    }

    fn dropped(&self, why: Dropped) {
        self.dropped.borrow_mut().push(why);
    }
}

/// The copies of a whole connection, in pieces of these sizes; the service ends it in order.
fn copies(said: &[(Side, &[u8])], sizes: &[usize], of: &Rc<Everything>) -> Vec<Copied> {
    let (mut reader, mut out) = (Http1::copying(Rc::clone(of) as Rc<dyn Admit>), Vec::new());
    let mut sizes = sizes.iter().copied().cycle();
    for (at, (side, bytes)) in (0..).zip(said) {
        let mut rest = *bytes;
        while !rest.is_empty() {
            let size = sizes.next().unwrap_or(usize::MAX).clamp(1, rest.len());
            reader.bytes(*side, at * 1_000, &rest[..size], &mut out);
            rest = &rest[size..];
        }
    }
    reader.end(Service, false, 99_000, &mut out);
    reader.take_copied()
}

/// Copies in short: position, method, path, body, status, body, events.
fn shown(copies: &[Copied]) -> Vec<String> {
    let line = |it: &Copied| {
        let (asked, answered) = (it.request.body.escape_ascii(), it.response.body.escape_ascii());
        let (method, path, status) = (&it.request.method, &it.request.path, it.response.status);
        format!("{} {method} {path} '{asked}' {status} '{answered}' {:?}", it.index, it.events)
    };
    copies.iter().map(line).collect()
}

/// A stream of events, of which the order wants two, and which ends lines in all ways.
const EVENTS: &[(Side, &[u8])] = &[
    (Client, b"GET /events HTTP/1.1\r\n\r\n"),
    (Service, b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (Service, b"B\r\ndata: 1\r\n\r\n\r\n8\r\ndata: 2\n\r\n1\r\n\n\r\n9\r\ndata: 3\n\n\r\n"),
];

#[test]
fn a_copy_is_the_whole_exchange_and_nothing_else() {
    let of = Everything::new(1_000, 10_000);
    let all = copies(RICH, &[], &of);
    assert_eq!(
        shown(&all),
        [
            "0 GET /a?x=1 '' 200 'hello' None",
            "1 POST /b 'abc' 201 'hello0123456789' None",
            "2 HEAD /c '' 200 '' None",
            "3 PUT /d 'x' 204 '' None",
            "4 GET /e '' 304 '' None",
            "5 GET /f '' 500 'until the end' None",
        ]
    );
    assert_eq!(all[1].request.headers[2], ("expect".to_owned(), "100-continue".to_owned()));
    assert_eq!(all[1].response.headers, [("transfer-encoding".to_owned(), "chunked".to_owned())]);
    assert_eq!((all[1].begun_us, all[1].us), (2_000, 4_000));
    assert!(of.dropped.borrow().is_empty() && of.used.get() > 0);
    drop(all);
    assert_eq!(of.used.get(), 0, "the memory is given back");
    let long = [b"GET /".as_slice(), &[b'a'; 3_000], b" HTTP/1.1\r\n\r\n"].concat();
    let said: &[(Side, &[u8])] = &[(Client, &long), (Service, b"HTTP/1.1 204 No\r\n\r\n")];
    assert_eq!(copies(said, &[], &of)[0].request.path.len(), 3_001, "the whole target");
}

#[test]
fn of_a_stream_the_first_events_are_copied() {
    let of = Everything::new(1_000, 10_000);
    let events = copies(EVENTS, &[], &of);
    assert_eq!(events[0].response.body, b"data: 1\r\n\r\ndata: 2\n\n");
    assert_eq!((events.len(), events[0].events, events[0].us), (1, Some(2), 2_000));
    // One event has come, and then the stream is over; no event has come.
    let one: &[(Side, &[u8])] = &[EVENTS[0], EVENTS[1], (Service, b"A\r\ndata: 1\n\nd\r\n")];
    let events = copies(one, &[], &of);
    assert_eq!((events[0].events, events[0].response.body.as_slice()), (Some(1), b"data: 1\n\n".as_slice()));
    assert!(copies(&EVENTS[..2], &[], &of).is_empty());
    assert_eq!(*of.dropped.borrow(), [Dropped::Unfinished]);
}

#[test]
fn a_copy_beyond_a_bound_is_given_up_and_its_memory_is_free_at_once() {
    let sent = |bytes: usize| [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &vec![b'x'; bytes]].concat();
    let asked = |bytes: usize| {
        [format!("POST / HTTP/1.1\r\nContent-Length: {bytes}\r\n\r\n").as_bytes(), &vec![b'x'; bytes]].concat()
    };
    let (small, large, ok) = (asked(10), asked(1_001), sent(10));
    let tunnel = b"HTTP/1.1 101 Switching Protocols\r\n\r\n".as_slice();
    let early = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n".as_slice();
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf".as_slice();
    for (said, memory, why) in [
        (&[(Client, small.as_slice()), (Service, &sent(1_001))][..], 10_000, Dropped::TooLarge),
        (&[(Client, &large), (Service, &ok)], 10_000, Dropped::TooLarge),
        (&[(Client, &small), (Service, &sent(900))], 500, Dropped::Full),
        (&[(Client, &small), (Service, tunnel)], 10_000, Dropped::Streams),
        (&[(Client, &small[..small.len() - 1]), (Service, early)], 10_000, Dropped::Unfinished),
        (&[(Client, &small), (Service, half)], 10_000, Dropped::Unfinished),
    ] {
        let of = Everything::new(1_000, memory);
        assert!(copies(said, &[], &of).is_empty());
        assert_eq!((of.dropped.borrow().as_slice(), of.used.get()), ([why].as_slice(), 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_cut_gives_the_same_copies(sizes in proptest::collection::vec(1_usize..90, 1..20)) {
        for said in [RICH, EVENTS] {
            let of = Everything::new(1_000, 10_000);
            let (whole, cut) = (copies(said, &[], &of), copies(said, &sizes, &of));
            prop_assert_eq!(shown(&cut), shown(&whole));
            drop((whole, cut));
            prop_assert_eq!(of.used.get(), 0);
        }
    }
}
