//! A service and a client out of the table of an interface's methods, whose rows `method` explains.

/// From the same table: the trait that an owner of the interface implements, and the dispatch of calls to it.
///
/// `who` says who may call, and so what the function is given:
/// - `anyone`: the inputs. Every user of the socket may call;
/// - `operator`: the caller, then the inputs: an act, which is recorded with the caller's name;
/// - `stream`: nothing. It returns a channel, and each event of it is a reply;
/// - `repeated`: nothing. The service calls it again and again, in its own `function`.
///
/// An input `name: Wire => Given = bound` travels as `Wire`; the function gets `bound(input)`, a `Given`.
macro_rules! service {
    ($(#[doc = $about:literal])* $interface:literal, $trait:ident, $error:ident; $(
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

/// From the same table: the functions of a client, one for each method that is no stream.
///
/// It has a function `call(method, after)`; `after` is the default of the type, or what the row says behind `within`.
macro_rules! client {
    ($(#[doc = $about:literal])* $interface:literal, $trait:ident, $error:ident; $(
        $(#[doc = $doc:literal])*
        $name:ident ( $($in:ident : $in_type:ty $(=> $given:ty = $bound:path)?),* ) -> $reply:ident ( $($out:ident : $out_type:ty)? )
            = $who:ident $function:ident $(within $after:ident)?;
    )*) => {
        $($crate::interface::table::client_function! {
            $(#[doc = $doc])*
            $who $function $name($($in: $in_type),*) -> ($($out_type)?) $($out)?; $error $(within $after)?
        })*
    };
}
pub(super) use client;

/// One function of a client.
macro_rules! client_function {
    ($(#[doc = $doc:literal])* stream $($rest:tt)*) => {};
    ($(#[doc = $doc:literal])* repeated $($rest:tt)*) => {};
    ($(#[doc = $doc:literal])* $who:ident $function:ident $name:ident($($in:ident: $in_type:ty),*) -> $out_type:tt $($out:ident)?;
        $error:ident $(within $after:ident)?) => {
        $(#[doc = $doc])*
        ///
        /// # Errors
        /// As [`ClientError`] says.
        pub async fn $function(
            &self,
            $($in: $in_type,)*
        ) -> Result<$crate::interface::table::given!($out_type), ClientError<$error>> {
            let reply = self.call(call::$name { $($in),* }, $crate::interface::table::after!($($after)?)).await;
            reply.map($crate::interface::table::from_reply!($($out)?))
        }
    };
}
pub(super) use client_function;

/// How long a client waits.
macro_rules! after {
    () => {
        Self::AFTER
    };
    ($after:ident) => {
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
