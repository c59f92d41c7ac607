use std::fs;

use tempfile::TempDir;

use super::*;
use crate::load::tests::{dataset, other};
use crate::store::DayBatch;

const DAY: &str = "20200810";

/// A dataset that is loaded and watched.
struct Watched {
    root: TempDir,
    watcher: Watcher,
    store: Store,
}

impl Watched {
    fn new(files: &[(&str, &str)]) -> Self {
        let root = dataset(files);
        let placed: BTreeSet<Day> = [DAY, "20200811"].map(|day| day.parse().unwrap()).into();
        let watcher = Watcher::new(root.path().to_owned(), placed.clone());
        let loaded =
            load_over(Store::default(), root.path(), &placed, &LoadOptions::default(), &|_| ()).unwrap();
        Watched { root, watcher, store: loaded.store }
    }

    fn write(&self, name: &str, data: impl AsRef<[u8]>) {
        let path = self.root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, data).unwrap();
    }

    /// The days that a look loaded.
    fn look(&mut self) -> Vec<String> {
        let reloaded = self.watcher.look(&self.store, &LoadOptions::default()).unwrap();
        self.store = reloaded.store;
        reloaded.days.keys().map(Day::to_string).collect()
    }

    fn failures(&mut self) -> Vec<String> {
        let reloaded = self.watcher.look(&self.store, &LoadOptions::default()).unwrap();
        reloaded.failed.iter().map(|(_, error)| error.to_string()).collect()
    }

    fn day(&self, day: &str) -> Option<&DayBatch> {
        self.store.day(day.parse().unwrap()).map(|batch| &**batch)
    }

    /// Concentrations of a day.
    fn values(&self, day: &str) -> Vec<String> {
        let values = |batch: &DayBatch| {
            (0..batch.row_count()).map(|row| batch.value.get(row).unwrap().to_string()).collect()
        };
        self.day(day).map(values).unwrap_or_default()
    }
}

/// A row of a day at a site.
fn row(day: &str, value: &str, site: &str) -> String {
    let date: Day = day.parse().unwrap();
    other(&format!("{}T01:00", date.iso()), "PM2.5", value, site) + "\n"
}

fn gzip(text: &str) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn file_is_taken_at_the_second_look_that_finds_it_the_same() {
    let mut watched = Watched::new(&[("20200810/a.csv", &row(DAY, "1", "A"))]);
    assert!(watched.look().is_empty(), "nothing has changed");
    watched.write("20200810/b.csv", row(DAY, "2", "B"));
    assert!(watched.look().is_empty(), "it may still grow");
    assert_eq!(watched.look(), [DAY]);
    assert_eq!(watched.values(DAY), ["1.0", "2.0"]);
    assert!(watched.look().is_empty(), "it is loaded once");
    watched.write("20200811/a.csv", row("20200811", "3", "C"));
    watched.write("20200812/a.csv", row("20200812", "4", "C"));
    watched.look();
    assert_eq!(watched.look(), ["20200811"], "the other one is not placed here");
    assert_eq!(watched.values("20200811"), ["3.0"]);
    assert_eq!(watched.values(DAY), ["1.0", "2.0"], "as it was");
}

#[test]
fn file_that_grows_is_left_alone() {
    let mut watched = Watched::new(&[("20200810/a.csv", &row(DAY, "1", "A"))]);
    let mut text = String::new();
    for value in 2..9 {
        text += &row(DAY, &value.to_string(), "B");
        watched.write("20200810/b.csv", &text);
        assert!(watched.look().is_empty());
    }
    assert_eq!(watched.look(), [DAY]);
    assert_eq!(watched.values(DAY).len(), 8);
}

#[test]
fn file_cut_in_the_middle_of_a_row_has_to_stay_the_same_for_longer() {
    let mut watched = Watched::new(&[("20200810/a.csv", &row(DAY, "1", "A"))]);
    let text = row(DAY, "2", "B") + &row(DAY, "3", "B");
    watched.write("20200810/b.csv", text.trim_end());
    let looks: Vec<usize> = (0..10).map(|_| watched.look().len()).collect();
    assert_eq!(
        looks,
        [0, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        "at the first look and {LOOKS_WITHOUT_LINE_BREAK} more"
    );
    assert_eq!(watched.values(DAY).len(), 3, "a line break at the end is nobody's duty");
}

#[test]
fn damaged_file_leaves_the_day_as_it_is_until_it_is_whole() {
    let mut watched = Watched::new(&[("20200810/a.csv", &row(DAY, "1", "A"))]);
    let whole = gzip(&row(DAY, "2", "B"));
    watched.write("20200810/b.csv.gz", &whole[..whole.len() - 9]);
    let tried: Vec<usize> = (0..9).map(|_| watched.failures().len()).collect();
    assert_eq!(tried, [0, 1, 1, 0, 1, 0, 0, 0, 1], "after 1, 2, 4 and 8 looks");
    assert_eq!(watched.values(DAY), ["1.0"]);
    watched.write("20200810/b.csv.gz", &whole);
    watched.look();
    assert_eq!(watched.look(), [DAY]);
    assert_eq!(watched.values(DAY), ["1.0", "2.0"]);
}

#[test]
fn one_damaged_day_keeps_no_other_from_being_loaded() {
    let mut watched = Watched::new(&[("20200810/a.csv", &row(DAY, "1", "A"))]);
    watched.write("20200810/b.csv.gz", "no gzip");
    watched.write("20200811/a.csv", row("20200811", "3", "C"));
    watched.look();
    let reloaded = watched.watcher.look(&watched.store, &LoadOptions::default()).unwrap();
    assert_eq!((reloaded.days.len(), reloaded.failed.len(), reloaded.pending), (1, 1, 1));
}

#[test]
fn stem_that_is_there_twice_is_no_new_data() {
    let mut watched = Watched::new(&[("20200810/a.csv", &row(DAY, "1", "A"))]);
    watched.write("20200810/a.csv.gz", gzip(&row(DAY, "1", "A")));
    watched.look();
    let failures = watched.failures();
    assert!(failures[0].contains("hold the same rows"), "{failures:?}");
    fs::remove_file(watched.root.path().join("20200810/a.csv")).unwrap();
    watched.look();
    let before = watched.day(DAY).unwrap().version;
    assert_eq!(watched.look(), [DAY]);
    assert_eq!(watched.day(DAY).unwrap().version, before, "the same rows");
    assert_eq!(watched.store.replaced().count(), 0);
}

#[test]
fn file_that_is_replaced_by_one_that_is_as_long_and_as_old_is_noticed() {
    let mut watched = Watched::new(&[("20200810/a.csv", &row(DAY, "1", "A"))]);
    let path = watched.root.path().join("20200810/a.csv");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let beside = watched.root.path().join("beside");
    fs::write(&beside, row(DAY, "2", "A")).unwrap();
    fs::File::options().write(true).open(&beside).unwrap().set_modified(modified).unwrap();
    fs::rename(&beside, &path).unwrap();
    watched.look();
    watched.look();
    let expected = if cfg!(unix) { "2.0" } else { "1.0" };
    assert_eq!(watched.values(DAY), [expected]);
}

#[test]
fn day_whose_files_are_gone_is_gone() {
    let mut watched = Watched::new(&[
        ("20200810/a.csv", &row(DAY, "1", "A")),
        ("20200811/a.csv", &row("20200811", "2", "A")),
    ]);
    fs::remove_dir_all(watched.root.path().join(DAY)).unwrap();
    watched.look();
    assert_eq!(watched.look(), [DAY]);
    assert!(watched.day(DAY).is_none());
    assert_eq!(watched.values("20200811"), ["2.0"]);
}

#[test]
fn dataset_that_is_out_of_reach_is_not_gone() {
    let mut watched = Watched::new(&[("20200810/a.csv", &row(DAY, "1", "A"))]);
    let away = watched.root.path().join(DAY);
    let hidden = watched.root.path().join("hidden");
    fs::rename(&away, &hidden).unwrap();
    for _ in 0..3 {
        let error = watched.watcher.look(&watched.store, &LoadOptions::default()).unwrap_err();
        assert!(matches!(error, LoadError::NoDays(_)), "{error}");
    }
    fs::rename(&hidden, &away).unwrap();
    assert!(watched.look().is_empty());
    assert_eq!(watched.values(DAY), ["1.0"]);
}

#[test]
fn replaced_rows_are_read_by_the_tables_that_follow() {
    let mut watched = Watched::new(&[("20200810/a.csv", &(row(DAY, "1", "A") + &row(DAY, "2", "B")))]);
    let before = watched.day(DAY).unwrap().version;
    // New sites come first in the file, where they would get the first codes.
    watched.write("20200810/a.csv", row(DAY, "3", "C") + &row(DAY, "4", "B"));
    watched.look();
    watched.look();
    let sites = |batch: &DayBatch| -> Vec<String> {
        batch.site.iter().map(|code| watched.store.sites()[*code as usize].site_name.to_string()).collect()
    };
    assert_eq!(sites(watched.day(DAY).unwrap()), ["C", "B"]);
    let replaced = watched.store.replaced_day(DAY.parse().unwrap(), before).unwrap();
    assert_eq!(sites(replaced), ["A", "B"]);
    assert!(watched.store.replaced_bytes() > 0);
}

#[test]
fn data_that_come_back_replace_what_replaced_them() {
    let mut watched = Watched::new(&[("20200810/a.csv", &row(DAY, "1", "A"))]);
    let before = watched.day(DAY).unwrap().version;
    for value in ["2", "1"] {
        watched.write("20200810/a.csv", row(DAY, value, "A"));
        watched.look();
        watched.look();
    }
    assert_eq!(watched.day(DAY).unwrap().version, before);
    let replaced: Vec<_> = watched.store.replaced().collect();
    assert_eq!(replaced.len(), 1, "the one in between");
    assert_ne!(replaced[0].1, before);
}

/// A delivery with many wrong sites is not paid for ever after.
#[test]
fn sites_that_no_row_has_any_more_are_left_out() {
    let mut watched = Watched::new(&[("20200810/a.csv", &(row(DAY, "1", "A") + &row(DAY, "2", "B")))]);
    let wrong: String = (0..100).map(|number| row("20200811", "3", &format!("wrong {number}"))).collect();
    watched.write("20200811/a.csv", wrong);
    watched.look();
    watched.look();
    assert_eq!(watched.store.sites().len(), 102);
    watched.write("20200811/a.csv", row("20200811", "4", "B"));
    watched.look();
    watched.look();
    assert_eq!(watched.store.sites().len(), 102, "the replaced day has them");
    let replaced: Vec<_> = watched.store.replaced().collect();
    replaced.into_iter().for_each(|(day, version)| watched.store.forget_replaced(day, version));
    watched.look();
    let names: Vec<&str> = watched.store.sites().iter().map(|site| &*site.site_name).collect();
    assert_eq!(names, ["A", "B"]);
    let sites =
        |batch: &DayBatch| -> Vec<&str> { batch.site.iter().map(|code| names[*code as usize]).collect() };
    assert_eq!(sites(watched.day(DAY).unwrap()), ["A", "B"]);
    assert_eq!(sites(watched.day("20200811").unwrap()), ["B"]);
}
