# shellcheck shell=bash disable=SC2034,SC2154
# ./run lint: format, static analysis and shell scripts.

# Files git knows or would add, changed against HEAD (or the last commit when nothing is), or all.
lint_files() { # lint_files changed|all PATTERN...
  local which=$1
  shift
  if [ "$which" = all ]; then
    git ls-files --cached --others --exclude-standard -- "$@"
  elif [ -n "$(git status --porcelain)" ]; then
    git diff --name-only --diff-filter=d HEAD -- "$@"
    git ls-files --others --exclude-standard -- "$@"
  else
    git diff --name-only --diff-filter=d HEAD~1 -- "$@"
  fi
}

do_lint() {
  local which=changed
  case ${1:-} in
    '') ;;
    --all) which=all ;;
    *) wrong "lint takes --all or nothing, not '$1'" ;;
  esac
  need_packages "${lint_packages[@]}"
  git rev-parse --git-dir >/dev/null 2>&1 || die "lint works in a git checkout"
  local failed=0 files
  step "clang-format ($which files)"
  mapfile -t files < <(lint_files "$which" '*.cpp' '*.h' '*.cu' '*.cuh')
  [ ${#files[@]} -eq 0 ] || clang-format --dry-run -Werror "${files[@]}" || failed=1
  step "shellcheck"
  mapfile -t files < <(git ls-files run .ci/run '*.sh')
  shellcheck -x "${files[@]}" || failed=1
  step "includes and file lengths"
  python3 tests/house/includes_test.py . || failed=1
  step "clang-tidy ($which files)"
  need_packages "${build_packages[@]}"
  need_libtorch
  need_imgui
  need_jinja
  cmake --preset dev "${cmake_options[@]}" -DKVSCOPE_CUDA=OFF -DKVSCOPE_PCH=OFF >/dev/null || die "configuring failed"
  mapfile -t files < <(lint_files "$which" '*.cpp' | grep -E '^(probe|spectral|methods|viewer)/')
  if [ ${#files[@]} -gt 0 ]; then
    printf '%s\0' "${files[@]}" | xargs -0 -n 1 -P "$jobs" clang-tidy --quiet -p build-dev || failed=1
  fi
  [ "$failed" = 0 ] || die "lint found something"
  step "lint: clean"
}
