use super::*;

#[test]
fn a_mask_gets_each_secret_and_its_texts_are_never_searched() {
    let mut found = Vec::new();
    let known = Secrets::new(vec![Secret { place: "runtime.env.KEY".into(), value: "0123456789".into() }]);
    let mut redactor = Redactor::knowing(&known).and_personal();
    // The mask's text looks like a secret itself, and the password in the URL contains another one.
    let text = "x://h?token=q1w2e3r4&to=ada@x.org \u{fdd0}0\u{fdd1} 0123456789 by bob@x.org, 4111 1111 1111 1111";
    let clean = redactor.text_with(text, &mut |it| {
        found.push(format!("{:?} {:?} {}", it.kind, it.key, it.value.len()));
        format!("<secret:key={}>", found.len())
    });
    assert_eq!(
        clean,
        "x://h?token=<secret:key=2>&to=<secret:key=3> \u{fffd}0\u{fffd} <secret:key=1> by <secret:key=4>, <secret:key=5>"
    );
    assert_eq!(
        found,
        [
            "Secret Some(\"runtime.env.KEY\") 10",
            "Secret Some(\"token\") 8",
            "Email None 9",
            "Email None 9",
            "Card None 19"
        ]
    );
    assert_eq!(redactor.text("to ada@x.org"), "to [redacted]");
    assert_eq!(Redactor::new().text("to ada@x.org 4111111111111111"), "to ada@x.org 4111111111111111");
}
