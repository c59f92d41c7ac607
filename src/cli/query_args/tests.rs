use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Words {
    #[command(flatten)]
    query: QueryArgs,
}

fn parse(words: &str) -> Result<Query, String> {
    let words = Words::try_parse_from(["overlay"].into_iter().chain(words.split_whitespace()));
    let words = words.map_err(|error| error.to_string())?;
    words.query.query(Encoding::Json, Some(2000)).map_err(|failure| format!("{failure:?}"))
}

fn bounds(words: &str) -> (Option<String>, Option<String>) {
    let Predicate { min, max, .. } = parse(words).unwrap().predicate;
    (min.map(|min| min.to_string()), max.map(|max| max.to_string()))
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn bounds_are_exact_and_may_be_negative_or_open() {
    assert_eq!(bounds("PM2.5 5 35"), (text("5.0"), text("35.0")));
    assert_eq!(bounds("PM2.5 17.3 17.3"), (text("17.3"), text("17.3")));
    assert_eq!(bounds("PM2.5 -5 -0.25"), (text("-5.0"), text("-0.25")));
    assert_eq!(bounds("PM2.5 -1e1 1e2"), (text("-10.0"), text("100.0")));
    assert_eq!(bounds("PM2.5 35"), (text("35.0"), None));
    assert_eq!(bounds("PM2.5 - 35"), (None, text("35.0")));
    assert_eq!(bounds("PM2.5 --all"), (None, None));
    // Inside towards the concentrations that they select.
    assert_eq!(bounds("- 5.0000000001 6.0000000001"), (text("5.000000001"), text("6.0")));
}

#[test]
fn words_are_folded_as_the_node_compares_them() {
    let query = parse("pm2.5 --site Yosemite --agency CARB --search Valley --team pink").unwrap();
    let Predicate { parameter, site, agency, text: search, .. } = query.predicate;
    assert_eq!(
        (parameter, site, agency, search),
        (text("PM2.5"), text("yosemite"), text("carb"), text("valley"))
    );
    assert_eq!(query.team, text("pink"));
}

#[test]
fn a_limit_is_the_one_given_or_the_default_unless_all_are_wanted() {
    assert_eq!(parse("").unwrap().limit, Some(2000));
    assert_eq!(parse("--limit 7").unwrap().limit, Some(7));
    assert_eq!(parse("--all").unwrap().limit, None);
}

#[test]
fn a_bbox_is_west_south_east_north() {
    let place = parse("--bbox -124.5,32,-114,42").unwrap().predicate.place;
    let (west, south, east, north) = (-124.5, 32.0, -114.0, 42.0);
    assert_eq!(
        place,
        Place { lat_min: Some(south), lat_max: Some(north), lon_min: Some(west), lon_max: Some(east) }
    );
}

#[test]
fn an_aggregate_keeps_the_order_of_its_keys() {
    let spec = parse("OZONE --aggregate aqi --by day,site").unwrap().aggregate.unwrap();
    assert_eq!((spec.of, spec.group_by), (AggregateOf::Aqi, vec![GroupKey::Day, GroupKey::Site]));
}

#[test]
fn wrong_words_are_refused_and_named() {
    for (words, said) in [
        ("PM2.5 NaN", "`NaN` is not a number"),
        ("PM2.5 35 5", "`35` is above max_value `5`"),
        ("PM2.5 5.000000001 5", "`5.000000001` is above max_value `5`"),
        ("--search=", "empty, a search needs at least one character"),
        ("5 35", "comes before MIN and MAX"),
        ("--from 20200230", "`20200230` is not a day"),
        ("--from 20200902 --to 20200901", "--from 20200902 is after --to 20200901"),
        ("--bbox 1,2,3", "3 numbers, expected 4"),
        ("--bbox 1,2,x,4", "`x` is not a number"),
        ("--bbox 1,NaN,2,3", "latitude NaN out of range"),
        ("--bbox 32,-124,42,-114", "latitude -124 out of range"),
        ("--bbox 10,0,-10,5", "smallest longitude 10 is above the largest, -10"),
        ("--limit 0", "`0` is not a number of rows: 1 or more is expected"),
        ("--limit -1", "`-1` is not a number of rows"),
        ("--limit 5 --all", "cannot be used with"),
        ("--by site", "--aggregate"),
        ("--aggregate mean", "possible values: value, raw_concentration, aqi"),
        ("--aggregate value --by place", "possible values: parameter, site, agency, day, hour, team"),
        ("--chunking small", "possible values: fixed, adaptive, query_based"),
    ] {
        let error = parse(words).unwrap_err();
        assert!(error.contains(said), "{words}: {error}");
    }
}
