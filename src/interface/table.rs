//! A service and a client out of the table of an interface's methods, whose rows `method` explains.

/// From the same table: the trait that an owner of the interface implements, and the dispatch of calls to it.
///
/// `who` says who may call, and so what the function is given:
/// - `anyone`: the inputs. Every user of the socket may call;
/// - `operator`: the caller, then the inputs. Only an operator may call: it is an act, which is recorded with the
///   caller's name;
/// - `stream`: nothing. It returns a channel, and each event of it is a reply;
/// - `repeated`: nothing. The service calls it again and again, in its own `function`.
///
/// An input `name: Wire => Given = bound` travels as `Wire`; the function gets `bound(input)`, a `Given`.
///
/// `within` names the bound of the answer. A row without it has the bound of the table's first line.
macro_rules! service {
    ($(#[doc = $about:literal])* $interface:literal, $trait:ident, $handler:ident, $error:ident, within $default:ident; $(
        $(#[doc = $doc:literal])*
        $name:ident ( $($in:ident : $in_type:ty $(=> $given:ty = $bound:path)?),* ) -> $reply:ident ( $($out:ident : $out_type:ty)? )
            = $who:ident $function:ident $(within $after:ident)?;
    )*) => {
        $(#[doc = $about])*
        pub trait $trait: Send + Sync + 'static {
            $($crate::interface::table::declare! {
                $(#[doc = $doc])*
                $who $function($($in: ($in_type $(=> $given)?)),*) -> ($($out_type)?), $error
            })*
        }

        impl<T: $trait> $crate::interface::answer::Answer for Service<T> {
            async fn answer(
                &self,
                caller: &$crate::interface::access::Caller,
                method: &str,
                parameters: serde_json::Value,
                to: &mut $crate::interface::answer::ReplyTo,
            ) -> Result<(), $crate::interface::wire::WireError> {
                match call::Call::read(method, parameters) {
                    Err(bad) => to.bad_call(bad).await,
                    $(Ok(call::Call::$name(given)) => {
                        $crate::interface::table::dispatch! {
                            $who (self, caller, to, given) $function $name($($in $(= $bound)?),*) -> $reply($($out)?)
                        }
                    })*
                }
            }
        }
    };
}
pub(super) use service;

/// One function of the trait.
macro_rules! declare {
    ($(#[doc = $doc:literal])* anyone $function:ident($($in:ident: $type:tt),*) -> $out:tt, $error:ident) => {
        $(#[doc = $doc])*
        fn $function(
            &self,
            $($in: $crate::interface::table::given!($type),)*
        ) -> impl Future<Output = Result<$crate::interface::table::given!($out), $error>> + Send;
    };
    ($(#[doc = $doc:literal])* operator $function:ident($($in:ident: $type:tt),*) -> $out:tt, $error:ident) => {
        $(#[doc = $doc])*
        fn $function(
            &self,
            caller: &$crate::interface::access::Caller,
            $($in: $crate::interface::table::given!($type),)*
        ) -> impl Future<Output = Result<$crate::interface::table::given!($out), $error>> + Send;
    };
    ($(#[doc = $doc:literal])* stream $function:ident($($in:ident: $type:tt),*) -> $out:tt, $error:ident) => {
        $(#[doc = $doc])*
        fn $function(
            &self,
        ) -> impl Future<
            Output = Result<tokio::sync::broadcast::Receiver<$crate::interface::table::given!($out)>, $error>,
        > + Send;
    };
    ($(#[doc = $doc:literal])* repeated $function:ident($($in:ident: $type:tt),*) -> $out:tt, $error:ident) => {
        $(#[doc = $doc])*
        fn $function(
            &self,
        ) -> impl Future<Output = Result<$crate::interface::table::given!($out), $error>> + Send;
    };
}
pub(super) use declare;

/// The type that a function is given, or returns.
macro_rules! given {
    (()) => {
        ()
    };
    (($wire:ty => $given:ty)) => {
        $given
    };
    (($type:ty)) => {
        $type
    };
}
pub(super) use given;

/// Answers one call.
macro_rules! dispatch {
    (anyone ($service:expr, $caller:ident, $to:ident, $given:ident)
        $function:ident $name:ident($($in:ident $(= $bound:path)?),*) -> $reply:ident($($out:ident)?)) => {{
        // Every user of the socket may call.
        let _ = $caller;
        let call::$name { $($in),* } = *$given;
        let result = $service.0.$function($($crate::interface::table::bounded!($in $(= $bound)?)),*).await;
        let result = result.map($crate::interface::table::into_reply!($reply $($out)?));
        $to.finish::<Self, call::$name>(result).await
    }};
    (operator ($service:expr, $caller:ident, $to:ident, $given:ident)
        $function:ident $name:ident($($in:ident $(= $bound:path)?),*) -> $reply:ident($($out:ident)?)) => {{
        let call::$name { $($in),* } = *$given;
        let result = $service.0.$function($caller, $($crate::interface::table::bounded!($in $(= $bound)?)),*).await;
        let result = result.map($crate::interface::table::into_reply!($reply $($out)?));
        $to.finish::<Self, call::$name>(result).await
    }};
    (stream ($service:expr, $caller:ident, $to:ident, $given:ident) $function:ident $($rest:tt)*) => {
        $service.$function(*$given, $to).await
    };
    (repeated ($service:expr, $caller:ident, $to:ident, $given:ident) $function:ident $($rest:tt)*) => {
        $service.$function(*$given, $to).await
    };
}
pub(super) use dispatch;

/// An input as the function gets it.
macro_rules! bounded {
    ($in:ident = $bound:path) => {
        $bound($in)
    };
    ($in:ident) => {
        $in
    };
}
pub(super) use bounded;

/// From what a function returned to the reply.
macro_rules! into_reply {
    ($reply:ident) => {
        |()| call::$reply {}
    };
    ($reply:ident $out:ident) => {
        |$out| call::$reply { $out }
    };
}
pub(super) use into_reply;

/// From the same table: the trait of a handler that handles the calls one at a time, and an implementation of the
/// interface that puts each call into the handler's queue (`queue` has its parts).
///
/// A function of the handler is given what the row's `who` says, and takes the answer to its `reply`: at once, or later.
macro_rules! queue {
    ($(#[doc = $about:literal])* $interface:literal, $trait:ident, $handler:ident, $error:ident, within $default:ident; $(
        $(#[doc = $doc:literal])*
        $name:ident ( $($in:ident : $in_type:ty $(=> $given:ty = $bound:path)?),* ) -> $reply:ident ( $($out:ident : $out_type:ty)? )
            = $who:ident $function:ident $(within $after:ident)?;
    )*) => {
        #[doc = concat!("Handles the calls of [`", stringify!($trait), "`] one at a time, out of the queue of a [`CallQueue`].")]
        pub trait $handler {
            $($crate::interface::table::handle! {
                $(#[doc = $doc])*
                $who $function($($in: ($in_type $(=> $given)?)),*) -> ($($out_type)?), $error
            })*
        }

        impl<I: From<Queued<dyn $handler>> + Send + 'static> $trait for CallQueue<I> {
            $($crate::interface::table::enqueue! {
                $who $name $function($($in: ($in_type $(=> $given)?)),*) -> ($($out_type)?), $error, $handler,
                $crate::interface::table::after!($default $($after)?)
            })*
        }
    };
}
pub(super) use queue;

/// One function of the handler.
macro_rules! handle {
    ($(#[doc = $doc:literal])* anyone $function:ident($($in:ident: $type:tt),*) -> $out:tt, $error:ident) => {
        $(#[doc = $doc])*
        fn $function(
            &mut self,
            $($in: $crate::interface::table::given!($type),)*
            reply: Reply<$crate::interface::table::given!($out), $error>,
        );
    };
    ($(#[doc = $doc:literal])* operator $function:ident($($in:ident: $type:tt),*) -> $out:tt, $error:ident) => {
        $(#[doc = $doc])*
        fn $function(
            &mut self,
            caller: &$crate::interface::access::Caller,
            $($in: $crate::interface::table::given!($type),)*
            reply: Reply<$crate::interface::table::given!($out), $error>,
        );
    };
    ($(#[doc = $doc:literal])* stream $function:ident($($in:ident: $type:tt),*) -> $out:tt, $error:ident) => {
        $(#[doc = $doc])*
        fn $function(
            &mut self,
            reply: Reply<tokio::sync::broadcast::Receiver<$crate::interface::table::given!($out)>, $error>,
        );
    };
    ($(#[doc = $doc:literal])* repeated $function:ident($($in:ident: $type:tt),*) -> $out:tt, $error:ident) => {
        $(#[doc = $doc])*
        fn $function(&mut self, reply: Reply<$crate::interface::table::given!($out), $error>);
    };
}
pub(super) use handle;

/// One function that puts a call into the queue.
macro_rules! enqueue {
    (anyone $name:ident $function:ident($($in:ident: $type:tt),*) -> $out:tt, $error:ident, $handler:ident, $within:expr) => {
        async fn $function(
            &self,
            $($in: $crate::interface::table::given!($type),)*
        ) -> Result<$crate::interface::table::given!($out), $error> {
            let answer = self.ask::<dyn $handler, _, _>(
                stringify!($name), $within, move |handler, reply| handler.$function($($in,)* reply),
            );
            answer.await.unwrap_or_else(|| Err(Service::<()>::busy($crate::interface::queue::NOT_NOW.to_owned())))
        }
    };
    (operator $name:ident $function:ident($($in:ident: $type:tt),*) -> $out:tt, $error:ident, $handler:ident, $within:expr) => {
        async fn $function(
            &self,
            caller: &$crate::interface::access::Caller,
            $($in: $crate::interface::table::given!($type),)*
        ) -> Result<$crate::interface::table::given!($out), $error> {
            $crate::interface::queue::operators_only(caller).map_err(Service::<()>::not_allowed)?;
            let caller = caller.clone();
            let answer = self.ask::<dyn $handler, _, _>(
                stringify!($name), $within, move |handler, reply| handler.$function(&caller, $($in,)* reply),
            );
            answer.await.unwrap_or_else(|| Err(Service::<()>::busy($crate::interface::queue::NOT_NOW.to_owned())))
        }
    };
    (stream $name:ident $function:ident($($in:ident: $type:tt),*) -> ($out:ty), $error:ident, $handler:ident, $within:expr) => {
        $crate::interface::table::enqueue! {
            anyone $name $function() -> (tokio::sync::broadcast::Receiver<$out>), $error, $handler, $within
        }
    };
    (repeated $name:ident $function:ident($($in:ident: $type:tt),*) -> $out:tt, $error:ident, $handler:ident, $within:expr) => {
        $crate::interface::table::enqueue! { anyone $name $function() -> $out, $error, $handler, $within }
    };
}
pub(super) use enqueue;

/// From the same table: the functions of a client, one for each method that is no `stream`. A `repeated` method is
/// called once.
///
/// The client has a function `call(method, within)`; `within` is the bound that the service has for its answer.
macro_rules! client {
    ($(#[doc = $about:literal])* $interface:literal, $trait:ident, $handler:ident, $error:ident, within $default:ident; $(
        $(#[doc = $doc:literal])*
        $name:ident ( $($in:ident : $in_type:ty $(=> $given:ty = $bound:path)?),* ) -> $reply:ident ( $($out:ident : $out_type:ty)? )
            = $who:ident $function:ident $(within $after:ident)?;
    )*) => {
        $($crate::interface::table::client_function! {
            $(#[doc = $doc])*
            $who $function $name($($in: $in_type),*) -> ($($out_type)?) $($out)?;
            $error within $crate::interface::table::after!($default $($after)?)
        })*
    };
}
pub(super) use client;

/// One function of a client.
macro_rules! client_function {
    ($(#[doc = $doc:literal])* stream $($rest:tt)*) => {};
    ($(#[doc = $doc:literal])* repeated $function:ident $name:ident($($in:ident: $in_type:ty),*) -> ($out_type:ty) $out:ident;
        $error:ident within $within:expr) => {
        $(#[doc = $doc])*
        ///
        /// # Errors
        /// As [`ClientError`] says.
        pub async fn $function(&self) -> Result<$out_type, ClientError<$error>> {
            let reply = self.call(call::$name { $($in: Default::default()),* }, $within).await;
            reply.map($crate::interface::table::from_reply!($out))
        }
    };
    ($(#[doc = $doc:literal])* $who:ident $function:ident $name:ident($($in:ident: $in_type:ty),*) -> $out_type:tt $($out:ident)?;
        $error:ident within $within:expr) => {
        $(#[doc = $doc])*
        ///
        /// # Errors
        /// As [`ClientError`] says.
        pub async fn $function(
            &self,
            $($in: $in_type,)*
        ) -> Result<$crate::interface::table::given!($out_type), ClientError<$error>> {
            let reply = self.call(call::$name { $($in),* }, $within).await;
            reply.map($crate::interface::table::from_reply!($($out)?))
        }
    };
}
pub(super) use client_function;

/// The bound of an answer: the row's, or the default of the table.
macro_rules! after {
    ($default:ident) => {
        $default
    };
    ($default:ident $after:ident) => {
        $after
    };
}
pub(super) use after;

/// From the reply to what a client returns.
macro_rules! from_reply {
    () => {
        drop
    };
    ($out:ident) => {
        |reply| reply.$out
    };
}
pub(super) use from_reply;
