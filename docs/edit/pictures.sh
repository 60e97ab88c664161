#!/bin/sh
# Makes the pictures of docs/editing.md: `sh docs/edit/pictures.sh`, from the root of a checkout.
set -e
photo=examples/kodim19_haze.jpg
source="a photo with haze"
into=${1:-docs/edit}
work=$(mktemp -d)
dehaze invert "$photo" --prompt "$source" --attention -o "$work/photo.safetensors"
edit() {
    name=$1
    shift
    echo "$name: $*"
    dehaze edit "$photo" --inversion "$work/photo.safetensors" --source "$source" "$@" -o "$into/$name.jpg"
}

edit refine --target "a photo"
edit reweight --word-weight haze=-1 --cross-replace 1
edit half --target "a photo" --strength 0.5
edit more --target "a photo" --strength 1.5
edit more-fresh --target "a photo" --strength 1.5 --fresh-source
edit blend --target "a photo" --blend haze --blend-threshold 0.9
edit smoke --target "a photo with dense smoke" --control refine
edit night --target "a photo at night" --control refine

edit guided --target "a photo" --guidance 1.5
edit guided-inside --target "a photo" --guidance 1.5 --guidance-outside 1
edit null-text --target "a photo" --guidance 1.5 --mode null-text
edit negative-prompt --target "a photo" --guidance 1.5 --mode negative-prompt
edit direct --target "a photo" --guidance 1.5 --mode direct

dehaze edit --generate 7 --source "a city with dense fog" --target "a city" -o "$into/made.png"
dehaze attention "$photo" --prompt "$source" --word haze -o "$work/maps"
cp "$work"/maps/*.words.png "$work"/maps/*.haze.grid.png "$into"
for path in nao slerp; do
    dehaze interpolate examples/kodim22_haze.jpg examples/kodim08_haze.jpg -n 8 --path $path -o "$work/$path"
    cp "$work/$path/$path.png" "$into"
done
dehaze interpolate examples/kodim22_haze.jpg examples/kodim08_haze.jpg examples/kodim24_mist.jpg --centroid -o "$work/centroid"
cp "$work/centroid/centroid.png" "$into"
rm -r "$work"
