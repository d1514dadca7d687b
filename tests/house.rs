//! Rules about who may name whom, read out of the sources themselves.
//!
//! - Sibling modules do not reach each other in a cycle, at any level of a crate.
//! - Only `rxl-xen`, `rxl-host` and `libxl-sys` name the crates that stand for libxl.
//! - Every crate but `rxl-xen` and `libxl-sys` forbids unsafe code.
//!
//! Code for tests is left out. `cargo metadata` tells which crates there are.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// Folders whose crates are judged.
const JUDGED: [&str; 3] = ["toolstack", "guest-agent", "migrate-stream"];

/// Crates that stand for libxl, and those that may name them.
const OF_LIBXL: [&str; 2] = ["libxl_sys", "rxl_xen"];
const MAY_NAME_LIBXL: [&str; 3] = ["libxl-sys", "rxl-xen", "rxl-host"];

const MAY_BE_UNSAFE: [&str; 2] = ["libxl-sys", "rxl-xen"];

/// Re-exports that are followed one after the other.
const MOST_REEXPORTS: usize = 8;

/// The path of a module inside its crate; the root's is empty.
type ModulePath = Vec<String>;

/// A path in code, such as `crate::a::b`.
type CodePath = Vec<String>;

#[derive(Default)]
struct Module {
    children: BTreeSet<String>,
    /// Names that `use` declarations bring in, each with what it stands for.
    imports: BTreeMap<String, CodePath>,
    /// All paths in the module's code, those of `use` declarations included.
    paths: Vec<CodePath>,
}

/// A crate's modules, and whether its root forbids unsafe code.
struct Tree {
    modules: BTreeMap<ModulePath, Module>,
    forbids_unsafe: bool,
}

impl Tree {
    fn read(root: &Path) -> Self {
        let file = parse(root);
        let forbids_unsafe = file.attrs.iter().any(|attribute| {
            attribute.path().is_ident("forbid")
                && attribute
                    .parse_args::<syn::Path>()
                    .is_ok_and(|lint| lint.is_ident("unsafe_code"))
        });
        let mut tree = Self { modules: BTreeMap::new(), forbids_unsafe };
        let directory = root.parent().expect("a file").to_owned();
        tree.add(Vec::new(), &file.items, &directory);
        tree
    }

    /// Adds a module and all below it. `directory` is where the files of its children are.
    fn add(&mut self, at: ModulePath, items: &[syn::Item], directory: &Path) {
        let mut reader = Reader::default();
        for item in items {
            reader.visit_item(item);
        }
        let Reader { module, inner } = reader;
        for child in inner {
            let name = child.ident.to_string();
            let below = [&at[..], std::slice::from_ref(&name)].concat();
            match &child.content {
                Some((_, items)) => self.add(below, items, &directory.join(&name)),
                None => {
                    let flat = directory.join(format!("{name}.rs"));
                    let nested = directory.join(&name).join("mod.rs");
                    // One that is in neither place is generated, or found by a path attribute.
                    let Some(file) = [flat, nested].into_iter().find(|file| file.is_file()) else {
                        continue;
                    };
                    self.add(below, &parse(&file).items, &directory.join(&name));
                }
            }
        }
        self.modules.insert(at, module);
    }

    /// The module in which what `path` names stands, seen from the module `at`.
    fn resolve(&self, at: &[String], path: &[String], reexports: usize) -> Option<ModulePath> {
        let mut here = at.to_vec();
        let mut rest = path;
        while let [first, more @ ..] = rest {
            match first.as_str() {
                "crate" => here.clear(),
                "self" => {}
                "super" => drop(here.pop()?),
                name if self.modules.get(&here)?.children.contains(name) => here.push(name.into()),
                name => {
                    // What is imported here is counted where it is imported; what somebody else
                    // imports and hands on stands elsewhere.
                    let target = self.modules.get(&here)?.imports.get(name);
                    return match target {
                        Some(target) if here != at && reexports < MOST_REEXPORTS => {
                            self.resolve(&here, target, reexports + 1)
                        }
                        Some(_) => None,
                        None if rest.len() == path.len() => None,
                        None => Some(here),
                    };
                }
            }
            rest = more;
        }
        Some(here)
    }

    /// For each module with children: which child reaches which other.
    fn arrows(&self) -> BTreeMap<ModulePath, BTreeMap<String, BTreeSet<String>>> {
        let mut arrows: BTreeMap<_, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
        for (at, module) in &self.modules {
            for target in module.paths.iter().filter_map(|path| self.resolve(at, path, 0)) {
                let common = at.iter().zip(&target).take_while(|(one, other)| one == other).count();
                if let (Some(from), Some(to)) = (at.get(common), target.get(common)) {
                    let level = arrows.entry(at[..common].to_vec()).or_default();
                    level.entry(from.clone()).or_default().insert(to.clone());
                }
            }
        }
        arrows
    }

    /// The groups of siblings that reach each other in a cycle.
    fn cycles(&self) -> Vec<String> {
        let mut cycles = BTreeSet::new();
        for (parent, arrows) in self.arrows() {
            for from in arrows.keys() {
                let group: BTreeSet<_> = reached(&arrows, from)
                    .into_iter()
                    .filter(|to| reached(&arrows, to).contains(from))
                    .collect();
                if !group.is_empty() {
                    let names: Vec<_> = group.into_iter().collect();
                    cycles.insert(format!("crate::{}: {}", parent.join("::"), names.join(", ")));
                }
            }
        }
        cycles.into_iter().collect()
    }
}

fn reached(arrows: &BTreeMap<String, BTreeSet<String>>, from: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from.to_owned()];
    while let Some(next) = open.pop() {
        for to in arrows.get(&next).into_iter().flatten() {
            if reached.insert(to.clone()) {
                open.push(to.clone());
            }
        }
    }
    reached
}

/// Reads one module's code, without that of the modules in it.
#[derive(Default)]
struct Reader<'a> {
    module: Module,
    inner: Vec<&'a syn::ItemMod>,
}

impl<'a> Visit<'a> for Reader<'a> {
    fn visit_item(&mut self, item: &'a syn::Item) {
        if !is_for_tests(item) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        self.module.children.insert(item.ident.to_string());
        self.inner.push(item);
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        self.import(&item.tree, &mut Vec::new());
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let names = path.segments.iter().map(|segment| segment.ident.to_string());
        self.module.paths.push(names.collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'a syn::Macro) {
        paths_in(call.tokens.clone(), &mut self.module.paths);
        visit::visit_macro(self, call);
    }
}

impl Reader<'_> {
    fn import(&mut self, tree: &syn::UseTree, before: &mut CodePath) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.import(&path.tree, before);
                before.pop();
            }
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.import(tree, before));
            }
            syn::UseTree::Glob(_) => self.module.paths.push(before.clone()),
            syn::UseTree::Name(name) => self.bring(&name.ident, &name.ident, before),
            syn::UseTree::Rename(rename) => self.bring(&rename.ident, &rename.rename, before),
        }
    }

    fn bring(&mut self, name: &syn::Ident, as_name: &syn::Ident, before: &[String]) {
        let path = [before, &[name.to_string()]].concat();
        self.module.imports.insert(as_name.to_string(), path.clone());
        self.module.paths.push(path);
    }
}

/// The paths in what a macro is given, which need not be an expression.
fn paths_in(tokens: TokenStream, paths: &mut Vec<CodePath>) {
    let (mut path, mut colons) = (CodePath::new(), 0);
    for token in tokens {
        match token {
            TokenTree::Ident(name) if colons == 2 => path.push(name.to_string()),
            TokenTree::Ident(name) => {
                paths.push(std::mem::replace(&mut path, vec![name.to_string()]));
            }
            TokenTree::Punct(mark) if mark.as_char() == ':' => {
                colons += 1;
                continue;
            }
            TokenTree::Group(group) => paths_in(group.stream(), paths),
            TokenTree::Punct(_) | TokenTree::Literal(_) => paths.push(std::mem::take(&mut path)),
        }
        colons = 0;
    }
    paths.push(path);
    paths.retain(|path| !path.is_empty());
}

fn is_for_tests(item: &syn::Item) -> bool {
    let attributes = match item {
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Const(item) => &item.attrs,
        _ => return false,
    };
    attributes.iter().any(|attribute| {
        let cfg = attribute.path().is_ident("cfg");
        attribute.path().is_ident("test")
            || cfg && attribute.parse_args::<syn::Path>().is_ok_and(|key| key.is_ident("test"))
    })
}

fn parse(file: &Path) -> syn::File {
    let text = std::fs::read_to_string(file).expect("a source file");
    syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// A crate's package, and the roots of its library and programs.
struct Package {
    name: String,
    roots: Vec<PathBuf>,
}

fn packages() -> Vec<Package> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut metadata = Command::new(cargo);
    metadata.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]);
    let output = metadata.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    let list = |value: &serde_json::Value| value.as_array().expect("a list").clone();
    let judged = JUDGED.map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
    let package = |package: &serde_json::Value| {
        let targets = list(&package["targets"]).into_iter().filter(|target| {
            list(&target["kind"]).iter().any(|kind| ["lib", "bin"].contains(&&*text(kind)))
        });
        let roots = targets.map(|target| PathBuf::from(text(&target["src_path"])));
        let roots = roots.filter(|root| judged.iter().any(|folder| root.starts_with(folder)));
        Package { name: text(&package["name"]), roots: roots.collect() }
    };
    list(&json["packages"]).iter().map(package).collect()
}

/// What a crate's root and all below it breaks, for people.
fn broken_rules(package: &str, root: &Path) -> Vec<String> {
    let tree = Tree::read(root);
    let cycles = tree.cycles();
    let mut broken: Vec<_> =
        cycles.iter().map(|cycle| format!("{package}: a cycle in {cycle}")).collect();
    for (at, module) in &tree.modules {
        let foreign = module.paths.iter().filter_map(|path| path.first());
        for name in foreign.filter(|name| OF_LIBXL.contains(&name.as_str())) {
            if !MAY_NAME_LIBXL.contains(&package) {
                broken.push(format!("{package}: crate::{} names {name}", at.join("::")));
            }
        }
    }
    if !tree.forbids_unsafe && !MAY_BE_UNSAFE.contains(&package) {
        broken.push(format!("{package}: {} does not forbid unsafe code", root.display()));
    }
    broken
}

#[test]
fn the_house_rules_hold() {
    let packages = packages();
    let roots: Vec<_> = packages
        .iter()
        .flat_map(|package| package.roots.iter().map(|root| (package.name.as_str(), root)))
        .collect();
    assert!(roots.len() >= 15, "too few crates are judged: {}", roots.len());
    let broken: Vec<_> = roots.iter().flat_map(|(name, root)| broken_rules(name, root)).collect();
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

/// A crate of these files, judged as one of that name.
fn judged(package: &str, files: &[(&str, &str)]) -> Vec<String> {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        let file = directory.path().join(name);
        std::fs::create_dir_all(file.parent().expect("a directory")).expect("made");
        std::fs::write(file, text).expect("written");
    }
    broken_rules(package, &directory.path().join("lib.rs"))
}

const ROOT: &str = "#![forbid(unsafe_code)] mod a; mod b; pub use b::B;";

#[test]
fn a_cycle_is_found_however_it_is_written() {
    let to_b =
        ["use crate::b::B;", "use super::b::*;", "fn f() { crate::b::g(); }", "use crate::B;"];
    for a in to_b.into_iter().chain(["fn f() { println!(\"{}\", super::b::g()); }"]) {
        let b = "pub struct B; fn f() -> crate::a::A { todo!() }";
        let broken = judged("x", &[("lib.rs", ROOT), ("a.rs", a), ("b.rs", b)]);
        assert_eq!(broken, ["x: a cycle in crate::: a, b"], "{a}");
        let one_way = judged("x", &[("lib.rs", ROOT), ("a.rs", a), ("b.rs", "pub struct B;")]);
        assert_eq!(one_way, [""; 0], "{a}");
    }
}

#[test]
fn cousins_make_a_cycle_of_their_parents() {
    let files = [
        ("lib.rs", ROOT),
        ("a.rs", "mod c;"),
        ("a/c.rs", "use crate::b::d::D; use super::super::b;"),
        ("b.rs", "pub mod d { use crate::a; fn f() { a::c::g(); } }"),
    ];
    assert_eq!(judged("x", &files), ["x: a cycle in crate::: a, b"]);
}

#[test]
fn tests_and_parents_make_no_cycle() {
    let files = [
        ("lib.rs", ROOT),
        ("a.rs", "use crate::b::B; mod c;"),
        ("a/c.rs", "use super::A;"),
        ("b.rs", "#[cfg(test)] mod tests { use crate::a::A; } #[cfg(test)] use crate::a;"),
    ];
    assert_eq!(judged("x", &files), [""; 0]);
}

#[test]
fn naming_libxl_and_unsafe_code_are_refused_where_they_do_not_belong() {
    let files = [("lib.rs", "mod a;"), ("a.rs", "fn f() { rxl_xen::f(); assert!(libxl_sys::T); }")];
    let broken = judged("x", &files);
    assert_eq!(broken[..2], ["x: crate::a names rxl_xen", "x: crate::a names libxl_sys"]);
    assert!(broken[2].ends_with("does not forbid unsafe code"), "{broken:?}");
    assert_eq!(judged("rxl-xen", &files), [""; 0]);
}
