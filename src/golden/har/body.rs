//! The bodies of requests and answers, from texts, base64 and the fields of forms.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::archive::Node;
use super::left_out::LeftOut;
use crate::golden::bodies::BODY_FILE_BYTES_MAX;
use crate::golden::url::form_encode;

/// The boundary of a form whose type names none.
const BOUNDARY: &str = "----rei-golden-boundary";

/// The character that stands for bytes that were lost when a program turned a body into text.
const LOST: char = '\u{fffd}';

/// The body of a request, and the type that it has if the request has no `content-type`.
#[derive(Default)]
pub(super) struct RequestBody {
    pub bytes: Vec<u8>,
    pub content_type: Option<String>,
}

/// The body of a request. Its `content-type`, if it has one, says how the fields of a form are written.
pub(super) fn of_request(request: &Node<'_>, content_type: Option<&str>) -> Result<RequestBody, LeftOut> {
    let data = request.get("postData");
    let sent = request.get("bodySize").size();
    if data.is_absent() {
        return match sent {
            Some(sent) if sent > 0 => Err(missing(0, sent)),
            _ => Ok(RequestBody::default()),
        };
    }
    data.object().map_err(LeftOut::Malformed)?;
    let malformed = LeftOut::Malformed;
    let mime = data.get("mimeType").optional_text().map_err(malformed)?.filter(|mime| !mime.is_empty());
    let text = data.get("text").optional_text().map_err(malformed)?.unwrap_or_default();
    let body = if text.is_empty() && !data.get("params").is_absent() {
        of_fields(&data, content_type.or(mime))?
    } else {
        let bytes = decode(&data, text).map_err(malformed)?;
        // The fields of a form may be encoded in another length, a text may not.
        if let Some(sent) = sent.filter(|sent| *sent > bytes.len() as u64) {
            return Err(missing(bytes.len(), sent));
        }
        RequestBody { bytes, content_type: mime.map(str::to_owned) }
    };
    if text.contains(LOST) {
        return Err(LeftOut::BodyLost("the archive has lost characters of the request's body".into()));
    }
    if body.bytes.len() as u64 > BODY_FILE_BYTES_MAX {
        return Err(LeftOut::LargeRequest(body.bytes.len() as u64));
    }
    Ok(body)
}

fn missing(has: usize, sent: u64) -> LeftOut {
    LeftOut::BodyLost(format!("the archive has {has} of the {sent} bytes of the request's body"))
}

fn of_base64(place: &Node<'_>, text: &str) -> Result<Vec<u8>, String> {
    let code: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    STANDARD.decode(code).map_err(|error| place.wrong(&format!("is not base64: {error}")))
}

/// The bytes of a message whose text is base64.
pub(super) fn decoded(message: &Node<'_>, text: &str) -> Result<Vec<u8>, String> {
    of_base64(&message.get("data"), text)
}

/// A text as bytes; its neighbour `encoding` says if it is base64.
fn decode(parent: &Node<'_>, text: &str) -> Result<Vec<u8>, String> {
    match parent.get("encoding").optional_text()? {
        Some(encoding) if encoding.eq_ignore_ascii_case("base64") => of_base64(&parent.get("text"), text),
        None | Some("") => Ok(text.as_bytes().to_vec()),
        Some(other) => Err(parent.get("encoding").wrong(&format!("is {other:?}, which rei does not know"))),
    }
}

/// A field of a form.
struct Field<'a> {
    name: &'a str,
    value: &'a str,
    file: Option<&'a str>,
    content_type: Option<&'a str>,
}

/// The body of a form, from its fields.
fn of_fields(data: &Node<'_>, content_type: Option<&str>) -> Result<RequestBody, LeftOut> {
    let malformed = LeftOut::Malformed;
    let mut fields = Vec::new();
    for param in data.get("params").items().map_err(malformed)? {
        let (name, value) = (param.get("name").text().map_err(malformed)?, param.get("value"));
        let file = param.get("fileName").optional_text().map_err(malformed)?;
        let content_type = param.get("contentType").optional_text().map_err(malformed)?;
        if let Some(file) = file.filter(|_| value.is_absent()) {
            return Err(LeftOut::BodyLost(format!("the archive does not have the content of the file {file:?}")));
        }
        let value = value.optional_text().map_err(malformed)?.unwrap_or_default();
        if [name, value].iter().any(|text| text.contains(LOST)) {
            return Err(LeftOut::BodyLost("the archive has lost characters of the request's body".into()));
        }
        fields.push(Field { name, value, file, content_type });
    }
    let kind = content_type.unwrap_or("application/x-www-form-urlencoded");
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/x-www-form-urlencoded" => {
            let pair = |field: &Field<'_>| format!("{}={}", form_encode(field.name), form_encode(field.value));
            let body = fields.iter().map(pair).collect::<Vec<_>>().join("&");
            Ok(RequestBody { bytes: body.into_bytes(), content_type: Some(kind.to_owned()) })
        }
        "multipart/form-data" => {
            let named = boundary_of(kind);
            let kind = if named.is_some() { kind.to_owned() } else { format!("{essence}; boundary={BOUNDARY}") };
            let bytes = multipart(&fields, named.unwrap_or(BOUNDARY));
            Ok(RequestBody { bytes, content_type: Some(kind) })
        }
        _ if fields.is_empty() => Ok(RequestBody::default()),
        other => {
            let reason = format!("has fields, but a body of the type {other} has none");
            Err(LeftOut::Malformed(data.get("params").wrong(&reason)))
        }
    }
}

/// The boundary that a type names.
fn boundary_of(kind: &str) -> Option<&str> {
    let parameter = kind.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.trim().split_once('=')?;
        name.eq_ignore_ascii_case("boundary").then_some(value.trim().trim_matches('"'))
    });
    parameter.filter(|boundary| !boundary.is_empty())
}

fn multipart(fields: &[Field<'_>], boundary: &str) -> Vec<u8> {
    // The escapes of the HTML standard for names in a form.
    let quoted = |text: &str| text.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A");
    let mut body = String::new();
    for field in fields {
        body += &format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{}\"", quoted(field.name));
        if let Some(file) = field.file {
            body += &format!("; filename=\"{}\"", quoted(file));
        }
        if let Some(kind) = field.content_type.filter(|kind| !kind.is_empty()) {
            body += &format!("\r\nContent-Type: {}", kind.replace(['\r', '\n'], " "));
        }
        body += &format!("\r\n\r\n{}\r\n", field.value);
    }
    body += &format!("--{boundary}--\r\n");
    body.into_bytes()
}

/// The body of an answer; `None` with the reason if the archive does not have all of it.
pub(super) fn of_answer(content: &Node<'_>) -> Result<Result<Vec<u8>, String>, LeftOut> {
    let size = content.get("size").size();
    if let Some(size) = size.filter(|size| *size > BODY_FILE_BYTES_MAX) {
        return Err(LeftOut::LargeAnswer(size));
    }
    let text = content.get("text").optional_text().map_err(LeftOut::Malformed)?;
    let Some(text) = text else {
        // Programs write the size 0 both for an empty body and for one that they do not have.
        return Ok(Err("the archive does not have it".into()));
    };
    let bytes = decode(content, text).map_err(LeftOut::Malformed)?;
    if bytes.len() as u64 > BODY_FILE_BYTES_MAX {
        return Err(LeftOut::LargeAnswer(bytes.len() as u64));
    }
    if text.contains(LOST) {
        return Ok(Err("the archive has lost characters of it".into()));
    }
    if let Some(size) = size.filter(|size| *size > bytes.len() as u64) {
        return Ok(Err(format!("the archive has {} of its {size} bytes", bytes.len())));
    }
    Ok(Ok(bytes))
}
