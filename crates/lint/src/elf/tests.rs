//! What is read of ELF files, real ones and damaged ones, and what is refused.

use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;
use crate::elf_stream::MOST;

/// This very program: dynamic, with needed versions.
fn program() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| std::fs::read(std::env::current_exe().unwrap()).unwrap())
}

fn read(bytes: &[u8]) -> Result<Elf, String> {
    let head = bytes.len().min(64);
    let mut file = ElfStream::default();
    file.push(&bytes[..head]);
    for chunk in bytes[head..].chunks(32 << 10) {
        if file.is_done() {
            break;
        }
        file.push(chunk);
    }
    Elf::read(&file)
}

#[test]
fn a_real_program_says_what_it_needs() {
    let elf = read(program()).unwrap();
    assert!(
        elf.interpreter.unwrap().contains("/ld-"),
        "a dynamic program"
    );
    let libc = elf.needed.iter().find(|name| name.starts_with("libc."));
    let versions = elf
        .versions_needed
        .iter()
        .find(|(name, _)| Some(name) == libc);
    let (_, versions) = versions.unwrap();
    assert!(
        versions
            .iter()
            .any(|version| version.starts_with("GLIBC_2.")),
        "{versions:?}"
    );
}

/// Where the program header of that type is.
fn segment(bytes: &[u8], kind: u8) -> usize {
    let count = usize::from(u16::from_le_bytes([bytes[56], bytes[57]]));
    let mut places = (0..count).map(|index| 64 + index * 56);
    places
        .find(|at| bytes[*at..at + 4] == [kind, 0, 0, 0])
        .unwrap()
}

fn number(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
}

#[test]
fn a_dynamic_section_is_found_wherever_it_is() {
    let whole = read(program()).unwrap();
    let header = segment(program(), 2);
    let (from, size) = (
        number(program(), header + 8),
        number(program(), header + 32),
    );
    let section = &program()[from..from + size];
    for place in [MOST - size, MOST - 64, MOST - 16, MOST, MOST + 4096] {
        let mut bytes = program()[..program().len().min(MOST)].to_vec();
        bytes.resize(MOST + (1 << 20), 0);
        bytes[place..place + size].copy_from_slice(section);
        bytes[header + 8..header + 16].copy_from_slice(&(place as u64).to_le_bytes());
        assert_eq!(read(&bytes).unwrap(), whole, "{place}");
    }
}

/// Headers of a program for x86-64 with these program headers, up to 0x200.
fn headers(segments: &[Vec<u8>]) -> Vec<u8> {
    let count = u8::try_from(segments.len()).unwrap();
    let mut bytes = [
        b"\x7fELF\x02\x01\x01".as_slice(),
        &[0; 9],
        &3_u16.to_le_bytes(),
        &62_u16.to_le_bytes(),
        &1_u32.to_le_bytes(),
        &[0; 8],
        &64_u64.to_le_bytes(),
        &[0; 12],
        &[64, 0, 56, 0, count, 0, 0, 0, 0, 0, 0, 0],
        &segments.concat(),
    ]
    .concat();
    bytes.resize(0x200, 0);
    bytes
}

/// A program header: its type, its flags, and where it is in the file and in memory alike.
fn program_header(kind: u32, flags: u32, from: u64, size: u64) -> Vec<u8> {
    let words = [from, from, from, size, size, 1].map(u64::to_le_bytes);
    [
        &kind.to_le_bytes()[..],
        &flags.to_le_bytes(),
        &words.concat(),
    ]
    .concat()
}

fn dynamic(entries: impl IntoIterator<Item = (u64, u64)>) -> Vec<u8> {
    let entries = entries.into_iter().chain([(0, 0)]);
    entries
        .flat_map(|(tag, value)| [tag.to_le_bytes(), value.to_le_bytes()].concat())
        .collect()
}

#[test]
fn names_are_found_behind_any_amount_of_code() {
    const CODE: u64 = 1 << 20;
    let names = CODE + 2 * MOST as u64;
    let entries = dynamic([(5, names), (10, 7), (1, 1)]);
    let behind = names + 16;
    let file = |flags| {
        let mut bytes = headers(&[
            program_header(1, 4, 0, 0x200),
            program_header(1, flags, CODE, names - CODE),
            program_header(1, 6, names, 0x1000),
            program_header(2, 6, behind, entries.len() as u64),
        ]);
        bytes.resize(usize::try_from(names).unwrap(), 0xcc);
        bytes.extend(b"\0libx.");
        bytes.resize(usize::try_from(behind).unwrap(), 0);
        bytes.extend(&entries);
        bytes.resize(bytes.len() + 0x1000, 0);
        bytes
    };
    const READ_EXECUTE: u32 = 5;
    const READ: u32 = 4;
    assert_eq!(read(&file(READ_EXECUTE)).unwrap().needed, ["libx."]);
    // There was too much before them.
    let elf = read(&file(READ)).unwrap();
    assert_eq!((elf.machine, elf.needed), (62, vec![]));
}

/// Linkers that begin with a segment for what is only read have their tables there; Go's has them behind its constants.
#[test]
fn constants_behind_code_are_left_out_where_tables_come_first() {
    const CODE: u64 = 0x1000;
    const CONSTANTS: u64 = 0x2000;
    const BEHIND: u64 = CONSTANTS + (4 << 20);
    const READ: u32 = 4;
    const READ_EXECUTE: u32 = 5;
    let file = |first: u32, names: u64| {
        let entries = dynamic([(5, names), (10, 7), (1, 1)]);
        let mut bytes = headers(&[
            program_header(1, first, 0, CODE),
            program_header(1, READ_EXECUTE, CODE, CONSTANTS - CODE),
            program_header(1, READ, CONSTANTS, BEHIND - CONSTANTS),
            program_header(1, 6, BEHIND, 0x1000),
            program_header(2, 6, BEHIND + 16, entries.len() as u64),
        ]);
        bytes.resize(usize::try_from(BEHIND + 0x1000).unwrap(), 0);
        for (at, these) in [(names, &b"\0libx."[..]), (BEHIND + 16, &entries)] {
            let at = usize::try_from(at).unwrap();
            bytes[at..at + these.len()].copy_from_slice(these);
        }
        let mut stream = ElfStream::default();
        stream.push(&bytes);
        (Elf::read(&stream).unwrap().needed, stream.kept())
    };
    let deep = CONSTANTS + (3 << 20);
    for (names, needed) in [(0x400, true), (BEHIND, true), (deep, false)] {
        let (found, kept) = file(READ, names);
        assert_eq!(found.as_slice() == ["libx."], needed, "{names:#x}");
        assert!(kept < 2 << 20, "{kept}");
    }
    // patchelf puts a segment of its own first, which can be written.
    const READ_WRITE: u32 = 6;
    for first in [READ_EXECUTE, READ_WRITE] {
        assert_eq!(file(first, deep).0, ["libx."], "{first}");
    }
}

/// Where the constants of [`cpu_level_with_note`] begin.
const CONSTANTS: u64 = 0x2000;

/// Linkers of 2026 put the note that tells of the processor behind the constants.
#[test]
fn a_note_behind_constants_is_found() {
    // The second begins within what is kept of the constants and ends behind it.
    for at in [CONSTANTS + (3 << 20), CONSTANTS + (1 << 20) - 16] {
        assert_eq!(cpu_level_with_note(at), Some(3), "{at:#x}");
    }
}

fn cpu_level_with_note(at: u64) -> Option<u8> {
    const CODE: u64 = 0x1000;
    // x86-64-v3 is needed (System V ABI, AMD64 supplement, "Program Property").
    let note: Vec<u8> = [4_u32, 16, 5, 0x0055_4e47, 0xc000_8002, 4, 4, 0]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let length = note.len() as u64;
    let mut bytes = headers(&[
        program_header(1, 4, 0, CODE),
        program_header(1, 5, CODE, CONSTANTS - CODE),
        program_header(1, 4, CONSTANTS, at + length - CONSTANTS),
        program_header(4, 4, at, length),
        program_header(2, 6, 0x400, 16),
    ]);
    bytes.resize(usize::try_from(at).unwrap(), 0);
    bytes.extend(&note);
    read(&bytes).unwrap().cpu_level
}

/// More program headers than `e_phnum` can say are counted in the first section header, which may say none.
#[test]
fn headers_at_the_end_of_all_numbers_are_no_panic() {
    let mut bytes = headers(&[]);
    bytes[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
    bytes[40..48].copy_from_slice(&0x100_u64.to_le_bytes());
    bytes[54..60].copy_from_slice(&[56, 0, 0xff, 0xff, 64, 0]);
    let _ = read(&bytes);
}

#[test]
fn names_within_code_are_not_known_and_names_behind_the_end_are_a_mistake() {
    const CODE: u64 = 0x10000;
    let file = |names: u64, length: u64| {
        let entries = dynamic([(5, names), (10, 7), (1, 1)]);
        let mut bytes = headers(&[
            program_header(1, 4, 0, CODE),
            program_header(1, 5, CODE, 4 << 20),
            program_header(2, 6, 0x200, entries.len() as u64),
            program_header(3, 4, 0x1000, 7),
        ]);
        bytes.extend(&entries);
        bytes.resize(0x1000, 0);
        bytes.extend(b"/ld.so\0");
        bytes.resize(usize::try_from(length).unwrap(), 0);
        if let Some(place) = bytes.get_mut(usize::try_from(names).unwrap()..) {
            let name = b"\0libx.\0";
            let fits = place.len().min(name.len());
            place[..fits].copy_from_slice(&name[..fits]);
        }
        read(&bytes)
    };
    // Before the code, as patchelf moves segments to make room for one of its own.
    let elf = file(CODE + 0x1000, 5 << 20).unwrap();
    assert_eq!(elf.needed, ["libx."]);
    let elf = file(3 << 20, 5 << 20).unwrap();
    assert_eq!(elf.needed, [""; 0]);
    assert_eq!(elf.interpreter.as_deref(), Some("/ld.so"));
    file(3 << 20, 2 << 20).unwrap_err();
}

#[test]
fn it_does_not_matter_in_how_many_pieces_a_file_comes() {
    let whole = read(program()).unwrap();
    for size in [61, 4096, program().len()] {
        let mut file = ElfStream::default();
        program().chunks(size).for_each(|chunk| file.push(chunk));
        assert_eq!(Elf::read(&file).unwrap(), whole, "{size}");
    }
}

#[test]
fn notes_that_many_headers_name_are_read_a_few_times() {
    const NOTES: u64 = 12 << 20;
    let same = program_header(4, 4, 1 << 20, NOTES);
    let mut bytes = headers(&[]);
    let count = 60_000_u16;
    bytes[56..58].copy_from_slice(&count.to_le_bytes());
    bytes.truncate(64);
    bytes.extend(same.repeat(usize::from(count)));
    bytes.resize((1 << 20) + usize::try_from(NOTES).unwrap(), 0);
    assert_eq!(read(&bytes).unwrap().cpu_level, None);
}

#[test]
fn tables_out_of_reach_are_no_mistake() {
    let mut bytes = program()[..4096].to_vec();
    bytes[32..40].copy_from_slice(&(MOST as u64 + 4096).to_le_bytes());
    read(&bytes).unwrap_err();
    bytes.resize(MOST + (1 << 20), 0);
    let elf = read(&bytes).unwrap();
    assert_eq!(elf.machine, read(program()).unwrap().machine);
    assert_eq!(elf.interpreter, None);
}

#[test]
fn one_long_name_over_and_over_is_refused() {
    // 3000 libraries that are all called by the same 8000 letters.
    let names = std::iter::repeat_n((1, 0), 3000);
    let entries = dynamic([(5, 0x200), (10, 8001)].into_iter().chain(names));
    let mut bytes = headers(&[
        program_header(1, 4, 0, 1 << 20),
        program_header(2, 4, 0x200 + 8001, entries.len() as u64),
    ]);
    bytes.extend([b'a'; 8000]);
    bytes.push(0);
    bytes.extend(entries);
    let problem = read(&bytes).unwrap_err();
    assert_eq!(problem, "its names are too many or too long");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn damaged_programs_never_panic_nor_grow(
        changes in prop::collection::vec((0_usize..4096, any::<u8>()), 1..24),
        length in 0_usize..1 << 20,
    ) {
        let mut bytes = program()[..length.max(4096).min(program().len())].to_vec();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        if let Ok(elf) = read(&bytes) {
            let names = elf.needed.iter().chain(&elf.versions_defined);
            prop_assert!(names.map(String::len).sum::<usize>() <= 3 * MAX_NAME_BYTES);
        }
    }
}
