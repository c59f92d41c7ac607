//! No text makes the parser panic, and none leaves it without an answer.

use proptest::prelude::*;

use super::*;

/// Any JSON, with the keys and words of the format mixed in.
fn any_json() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(vec![
        "processes",
        "teams",
        "limits",
        "strategies",
        "neighbors",
        "role",
        "leader",
        "A",
        "B",
        "green",
        "port",
        "weight",
        "20200810",
        "127.0.0.1",
        "chunk_bytes",
        "clients",
        "name",
        "first_day",
        "last_day",
        "",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        let key = prop_oneof![4 => word.clone().prop_map(str::to_owned), 1 => any::<String>()];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..6).prop_map(Value::from_iter),
        ]
    })
}

/// The values inside, in the order of the file.
fn values(json: &mut Value, found: &mut dyn FnMut(&mut Value)) {
    found(json);
    match json {
        Value::Array(items) => items.iter_mut().for_each(|item| values(item, found)),
        Value::Object(entries) => entries.values_mut().for_each(|item| values(item, found)),
        _ => {}
    }
}

/// Whatever comes in, it is either an overlay that reads back or a report that is not empty.
fn is_answered(text: &str) -> Result<(), TestCaseError> {
    match Overlay::parse(text, "any.json") {
        Ok(parsed) => {
            let again = Overlay::parse(&parsed.overlay.to_json().to_string(), "again.json");
            prop_assert_eq!(again.map(|again| again.overlay), Ok(parsed.overlay));
        }
        Err(problems) => {
            prop_assert!(!problems.0.is_empty());
            prop_assert_eq!(problems.to_string().lines().count(), problems.0.len());
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_text_is_answered(text in ".*") {
        is_answered(&text)?;
    }

    #[test]
    fn any_json_is_answered(json in any_json()) {
        is_answered(&json.to_string())?;
    }

    #[test]
    fn a_file_with_other_values_is_answered(
        replacements in prop::collection::vec((any::<prop::sample::Index>(), any_json()), 1..4),
    ) {
        let mut file = parse(&six_nodes()).unwrap().overlay.to_json();
        for (index, replacement) in replacements {
            let mut count = 0;
            values(&mut file, &mut |_| count += 1);
            let mut place = index.index(count) as i64;
            values(&mut file, &mut |value| {
                if place == 0 {
                    *value = replacement.clone();
                }
                place -= 1;
            });
        }
        is_answered(&file.to_string())?;
    }

    #[test]
    fn a_file_with_other_bytes_is_answered(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..3, any::<char>()), 1..5),
    ) {
        let mut letters: Vec<char> = SIX_NODES.chars().collect();
        for (index, edit, letter) in edits {
            let place = index.index(letters.len());
            match edit {
                0 => { letters.remove(place); }
                1 => letters.insert(place, letter),
                _ => letters[place] = letter,
            }
        }
        is_answered(&letters.into_iter().collect::<String>())?;
    }
}
