//! Methods as data: written once, in the order and spelling of the interface definition file.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The input of a method, which knows the method's name and reply.
pub trait Method: Serialize + DeserializeOwned {
    /// `INTERFACE.Method`.
    const NAME: &'static str;
    /// What a successful call returns.
    type Reply: Serialize + DeserializeOwned;
}

/// Why a call is not one of the interface.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadCall {
    /// There is no such method.
    Method,
    /// This parameter is missing, unknown or of a wrong type.
    Parameter(String),
}

impl BadCall {
    /// Reads the name of the parameter out of serde's message, which quotes it; the whole message if there is none.
    pub(super) fn parameter(error: &serde_json::Error) -> Self {
        let text = error.to_string();
        Self::Parameter(text.split('`').nth(1).map_or(text.clone(), str::to_owned))
    }
}

/// Declares the methods of one interface: their inputs, their replies, `Call` with one variant a method (so that a
/// service that forgets one does not compile), and for the definition file `methods()`.
///
/// A row of the table is a method:
///
/// ```text
/// /// What it does, as the definition file says it.
/// Name(input: Type, …) -> NameReply(output: Type, …) = who function;
/// ```
///
/// What follows the `=` is for `service!`, `queue!` and `client!` in `table`, which take the same rows.
macro_rules! methods {
    ($(#[doc = $about:literal])* $interface:literal $(, $trait:ident, $handler:ident, $error:ident, within $default:ident)?; $(
        $(#[doc = $doc:literal])*
        $name:ident ( $($in:ident : $in_type:ty $(=> $given:ty = $bound:path)?),* )
            -> $reply:ident ( $($out:ident : $out_type:ty),* )
            $(= $who:ident $function:ident $(within $after:ident)?)?;
    )*) => {
        $(
            $(#[doc = $doc])*
            #[derive(Clone, Debug, serde::Serialize, serde::Deserialize, zlink::introspect::Type)]
            #[serde(deny_unknown_fields)]
            pub struct $name {
                $(#[doc = concat!("`", stringify!($in), "`, as the method says.")] pub $in: $in_type,)*
            }

            #[doc = concat!("The reply of [`", stringify!($name), "`].")]
            #[derive(Clone, Debug, serde::Serialize, serde::Deserialize, zlink::introspect::Type)]
            pub struct $reply {
                $(#[doc = concat!("`", stringify!($out), "`, as the method says.")] pub $out: $out_type,)*
            }

            impl $crate::interface::Method for $name {
                const NAME: &'static str = concat!($interface, ".", stringify!($name));
                type Reply = $reply;
            }
        )*

        /// A call of any method of the interface.
        pub enum Call {
            $(#[doc = concat!("[`", stringify!($name), "`].")] $name(Box<$name>),)*
        }

        impl Call {
            /// Reads a call. `name` is the method's name without its interface.
            pub(in crate::interface) fn read(
                name: &str,
                parameters: serde_json::Value,
            ) -> Result<Self, $crate::interface::method::BadCall> {
                use $crate::interface::method::BadCall;
                match name {
                    $(stringify!($name) => serde_json::from_value(parameters)
                        .map(Self::$name)
                        .map_err(|error| BadCall::parameter(&error)),)*
                    _ => Err(BadCall::Method),
                }
            }
        }

        /// The methods as the definition file has them.
        #[cfg(test)]
        pub(in crate::interface) fn methods() -> Vec<zlink::idl::Method<'static>> {
            use zlink::introspect::Type;
            vec![$(
                $crate::interface::idl::method(
                    stringify!($name), <$name>::TYPE, <$reply>::TYPE, &[$($doc),*],
                ),
            )*]
        }
    };
}
pub(super) use methods;
