#!/bin/sh
# Copies the Hugging Face cache of this image to a directory, verified:
#
#   docker run --rm -v ~/.cache/huggingface:/export IMAGE export
#
# Every blob is named by its hash, so the names alone say whether the bytes are right. What is
# there already and right is kept, split files are joined, nothing gets its final name before
# its hash was checked, refs come last, and all of it is given to the owner of the directory.
# Only what busybox and dash both have. Exit codes as everywhere in hf-models.
set -eu
umask 022

usage_error=2 integrity_error=6 storage_error=7
large_bytes=50000000 # worth a line of progress

source_dir=${HF_HUB_CACHE:-/root/.cache/huggingface/hub}

list_repos() {
    for path in "$source_dir"/*--*; do
        [ -d "$path/blobs" ] || continue
        folder=${path##*/} kind=${path##*/}
        kind=${kind%%s--*} id=${folder#*--}
        commit=$(cat "$path"/refs/* 2> /dev/null | head -c 40 || true)
        case $id in *--*) id=${id%%--*}/${id#*--} ;; esac
        printf '  %s %s%s\n' "$kind" "$id" "${commit:+ at $commit}"
    done
}

usage() {
    printf 'This image carries files of the Hugging Face Hub, as the cache in %s:\n\n' "$source_dir"
    list_repos
    cat << 'USAGE'

To copy them out, verified, where HF_HOME is ~/.cache/huggingface:

  docker run --rm -v ~/.cache/huggingface:/export IMAGE export

As an ordinary user, into a directory of your own:

  docker run --rm --user $(id -u):$(id -g) -v DIR:/export IMAGE export

To load them in a container, mount or copy the cache, and leave HF_HUB_OFFLINE=1 set:

  COPY --from=IMAGE /root/.cache/huggingface /root/.cache/huggingface

Without Docker: hf-models restore IMAGE, of https://github.com/AlphaHinex/hf-models
Any other command runs in the image as it is: docker run --rm -it IMAGE sh
USAGE
}

# As the image's entry point (`export --image ARGUMENTS`), any other command is just run.
if [ "${1:-}" = --image ]; then
    shift
    case ${1:---help} in
        export) shift ;;
        -h | --help | help) usage && exit 0 ;;
        *) exec "$@" ;;
    esac
fi
case ${1:-} in -h | --help) usage && exit 0 ;; esac
export_dir=${1:-/export}
temporary='' list='' child='' batch_dir='' hub_is_new=''

say() { printf 'export: %s\n' "$*"; }
fail() {
    code=$1
    shift
    printf 'error: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf 'hint: %s\n' "$2" >&2
    exit "$code"
}
clean_up() {
    [ -z "$child" ] || kill "$child" 2> /dev/null || true
    rm -rf -- ${temporary:+"$temporary"} ${list:+"$list"} ${batch_dir:+"$batch_dir"}
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP

has() { command -v "$1" > /dev/null 2>&1; }
can_sha256=$(has sha256sum && echo yes || true)
can_sha1=$(has sha1sum && echo yes || true)

# hash_file FILE OID SIZE: sets `got` to the file's hash, of the kind that OID is; to the OID
# where nothing can tell. Few processes: a repo may have thousands of small files.
hash_file() {
    case ${#2}$can_sha256$can_sha1 in
        64yes*) got=$(sha256sum < "$1") || return 1 ;;
        # git's name of a blob: its size comes first.
        40*yes) got=$({ printf 'blob %s\0' "$3" && cat -- "$1"; } | sha1sum) || return 1 ;;
        40* | 64*) [ "$(stat -c %s -- "$1")" = "$3" ] && got=$2 || got=size ;;
        *) return 1 ;;
    esac
    got=${got%% *}
}

# A name that no other export and no huggingface_hub uses, of the form it cleans up.
run_id=$(head -c 4 /dev/urandom | od -An -tx1 | tr -d ' \n')
new_temporary() { temporary=$1.$run_id.incomplete; }

# not_written PATH BYTES: a write failed; say why. What the program said stands above it.
not_written() {
    directory=$PWD
    [ -w "$directory" ] || fail $storage_error "$1: permission denied in $export_dir" \
        "docker run --user \$(id -u):\$(id -g), or mount a directory that this user may write to"
    free=$(df -Pk "$directory" | tail -n 1 | tr -s ' ' | cut -d ' ' -f 4)
    [ "$free" -gt $(($2 / 1024 + 1)) ] || fail $storage_error \
        "$1: want $2 bytes free, $export_dir has $free KiB" \
        "free some space and run it again: what is there already is kept"
    fail $storage_error "$1: cannot be written"
}

# is_kept OID SIZE: whether the blob is there already, and right.
is_kept() {
    [ -f "blobs/$1" ] || return 1
    if hash_file "blobs/$1" "$1" "$2" && [ "$got" = "$1" ]; then
        kept=$((kept + 1))
        return 0
    fi
    say "$folder/blobs/$1 has wrong bytes: replacing it"
    return 1
}

# bring OID SIZE FILE...: join the files into blobs/OID.
bring() {
    oid=$1 want_bytes=$2
    shift 2
    final=blobs/$oid
    new_temporary "$final"
    if [ "$want_bytes" -ge "$large_bytes" ]; then
        # In the background: a shell answers no signal while it waits in the foreground.
        cat -- "$@" > "$temporary" &
        child=$!
        wait "$child" || not_written "$folder/$final" "$want_bytes"
        child=''
    else
        cat -- "$@" > "$temporary" || not_written "$folder/$final" "$want_bytes"
    fi
    hash_file "$temporary" "$oid" "$want_bytes" \
        || fail $storage_error "$folder/$final: cannot read it back"
    [ "$got" = "$oid" ] || wrong_bytes
    mv -f -- "$temporary" "$final" || not_written "$folder/$final" "$want_bytes"
    temporary=''
    written=$((written + 1)) written_bytes=$((written_bytes + want_bytes))
}

wrong_bytes() {
    [ "$(stat -c %s -- "$temporary")" = "$want_bytes" ] || not_written "$folder/$final" "$want_bytes"
    fail $integrity_error "$folder/$final: want oid $oid, got $got" "pull the image again"
}

# Small files go hundreds at a time: one process to copy them, one to name them.
bring_batch() {
    [ -n "$batch" ] || return 0
    new_temporary "$PWD/blobs/batch"
    batch_dir=$temporary temporary=''
    mkdir -p -- "$batch_dir"
    # shellcheck disable=SC2086
    cp -- $batch "$batch_dir/" || not_written "$folder" "$batch_bytes"
    # shellcheck disable=SC2086
    set -- $batch_sizes
    for path in $batch; do
        oid=${path##*/} want_bytes=$1
        shift
        temporary=$batch_dir/$oid final=blobs/$oid
        hash_file "$temporary" "$oid" "$want_bytes" \
            || fail $storage_error "$folder/$final: cannot read it back"
        [ "$got" = "$oid" ] || wrong_bytes
    done
    temporary=''
    mv -f -- "$batch_dir"/* blobs/ || not_written "$folder" "$batch_bytes"
    rmdir -- "$batch_dir"
    batch_dir=''
    written=$((written + batch_count)) written_bytes=$((written_bytes + batch_bytes))
    batch='' batch_sizes='' batch_bytes=0 batch_count=0
}

# Flushes the parts that were gathered for $joining.
join_parts() {
    [ -n "$joining" ] || return 0
    [ "$part_count" -eq "$part_total" ] \
        || fail $integrity_error "$folder/blobs/$joining: want $part_total parts, got $part_count" \
            "pull the image again"
    # Paths of our own making: hexadecimal names below a root without spaces.
    # shellcheck disable=SC2086
    is_kept "$joining" "$part_bytes" || bring "$joining" "$part_bytes" $part_files
    joining=''
}

# Reads "SIZE PATH" lines in the order of names, so the parts of a file follow one another.
bring_all() {
    kept=0 written=0 written_bytes=0 done_bytes=0 count=0 joining=''
    batch='' batch_sizes='' batch_bytes=0 batch_count=0
    while read -r size path; do
        name=${path##*/} count=$((count + 1))
        case $name in
            *.part-*-of-*)
                oid=${name%%.*} total=${name##*-of-}
                if [ "$oid" != "$joining" ]; then
                    join_parts
                    # A leading zero would make the number octal.
                    joining=$oid part_files='' part_count=0 part_bytes=0
                    part_total=${total#"${total%%[!0]*}"}
                fi
                part_count=$((part_count + 1)) part_bytes=$((part_bytes + size))
                part_files="$part_files $path"
                number=${name##*.part-} number=${number%%-*}
                [ "${number#"${number%%[!0]*}"}" = "$part_count" ] \
                    || fail $integrity_error "$folder/blobs/$oid: want part $part_count, got $name"
                ;;
            *)
                join_parts
                if is_kept "$name" "$size"; then
                    :
                elif [ "$size" -ge "$large_bytes" ]; then
                    bring "$name" "$size" "$path"
                else
                    batch="$batch $path" batch_sizes="$batch_sizes $size"
                    batch_bytes=$((batch_bytes + size)) batch_count=$((batch_count + 1))
                fi
                [ "$batch_count" -lt 250 ] || bring_batch
                ;;
        esac
        done_bytes=$((done_bytes + size))
        if [ "$size" -ge "$large_bytes" ] || [ $((count % 500)) -eq 0 ]; then
            say "$folder: $((done_bytes / 1000000)) of $((total_bytes / 1000000)) MB"
        fi
    done
    join_parts
    bring_batch
    say "$folder: $written files written ($((written_bytes / 1000000)) MB), $kept kept"
}

total_of() {
    sum=0
    while read -r size path; do sum=$((sum + size)); done
    printf '%s\n' "$sum"
}

# copy_small DIRECTORY: small files of the repo folder (trees, plans), each written whole or not at all.
copy_small() {
    (cd "$source_dir/$folder" && find "$1" -type f) | while IFS= read -r path; do
        mkdir -p -- "${path%/*}"
        new_temporary "${path%/*}/small"
        cat -- "$source_dir/$folder/$path" > "$temporary" || not_written "$folder/$path" 4096
        mv -f -- "$temporary" "$path"
    done
}

# Refs: one of another commit is moved with a word, and main only by an image of main.
copy_refs() {
    (cd "$source_dir/$folder" && find refs -type f) | while IFS= read -r path; do
        new=$(cat -- "$source_dir/$folder/$path") old=''
        [ ! -f "$path" ] || old=$(cat -- "$path")
        [ "$old" != "$new" ] || continue
        if [ "$path" = refs/main ] && [ -n "$old" ] && ! is_of_main "$new"; then
            say "$folder: refs/main stays at $old: the image is of another revision"
            continue
        fi
        if [ -d "$path" ] || ! mkdir -p -- "${path%/*}" 2> /dev/null; then
            say "$folder: $path is not written: another ref is in the way; use revision=$new"
            continue
        fi
        new_temporary "${path%/*}/small"
        printf %s "$new" > "$temporary" || not_written "$folder/$path" 4096
        mv -f -- "$temporary" "$path"
        [ -z "$old" ] || say "$folder: $path moved from $old to $new"
    done
}

# is_of_main COMMIT: whether main was asked for when the image was made; without a plan, it was.
is_of_main() {
    plan=$source_dir/$folder/plans/$1.json
    [ -f "$plan" ] || return 0
    case $(cat -- "$plan") in
        *'"revision":"main"'* | *'"revision": "main"'*) return 0 ;;
    esac
    return 1
}

# The links of all snapshots; where links cannot be, the files themselves.
copy_links() {
    mkdir -p snapshots
    if ln -sfn blobs .links-work 2> /dev/null; then
        rm -f .links-work
        cp -dRf -- "$source_dir/$folder/snapshots/." snapshots/ \
            || fail $storage_error "$folder: cannot write the links of snapshots/"
        return
    fi
    say "$folder: no links can be made here: copying every file into snapshots/ as well"
    list_links | while IFS= read -r path; do
        link=$(readlink -- "$source_dir/$folder/$path")
        mkdir -p -- "${path%/*}"
        new_temporary "${path%/*}/file"
        cat -- "blobs/${link##*/}" > "$temporary" || not_written "$folder/$path" 4096
        mv -f -- "$temporary" "$path"
    done
}

list_links() { (cd "$source_dir/$folder" && find snapshots -type l); }

check_links() {
    list_links | while IFS= read -r path; do
        [ -f "$path" ] || fail $integrity_error "$folder/$path: want a file, got nothing"
    done
}

export_folder() {
    folder=$1
    target=$export_dir/hub/$folder
    mkdir -p -- "$target/blobs" || fail $storage_error "permission denied in $export_dir" \
        "docker run --user \$(id -u):\$(id -g), or mount a directory that this user may write to"
    cd "$target"
    new_temporary "$target/list"
    list=$temporary temporary=''
    find "$source_dir/$folder/blobs" -type f -exec stat -c '%s %n' {} + | sort -k 2 > "$list" \
        || not_written "$folder" 4096
    total_bytes=$(total_of < "$list")
    bring_all < "$list"
    rm -f -- "$list"
    copy_links
    check_links
    for name in trees plans; do
        [ ! -d "$source_dir/$folder/$name" ] || copy_small "$name"
    done
    [ ! -d "$source_dir/$folder/refs" ] || copy_refs
    chown -Rh "$owner" "$target" 2> /dev/null \
        || say "cannot give $folder to $owner here: left as it is"
}

[ -d "$export_dir" ] || fail $usage_error "want a directory at $export_dir, got none" \
    "docker run --rm -v DIR:$export_dir IMAGE export"
[ -d "$source_dir" ] || fail $storage_error "want a cache in this image at $source_dir, got none" \
    "a mount over it hides it: mount the directory at /export"
owner=$(stat -c %u:%g -- "$export_dir")
[ -n "$can_sha256" ] || say "this base image has no sha256sum: large files are not checked"
[ -n "$can_sha1" ] || say "this base image has no sha1sum: small files are not checked"

[ -d "$export_dir/hub" ] || hub_is_new=yes
found=''
for path in "$source_dir"/*--*; do
    [ -d "$path/blobs" ] || continue
    found=yes
    export_folder "${path##*/}"
done
[ -n "$found" ] || fail $storage_error "want a repo in $source_dir, got none"
[ -z "$hub_is_new" ] || chown "$owner" "$export_dir/hub" 2> /dev/null || true
say "done: HF_HUB_OFFLINE=1 and this directory as HF_HOME load it"
